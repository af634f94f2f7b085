//! `serin key`: makes, lists and revokes API keys in the keys file. A running server reloads the file by itself.

use super::CliError;
use crate::access::{Key, KeyLimits, KeysFile, NewKey, Scope, parse_expiry};
use crate::config::Config;
use crate::sanitize;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use std::path::PathBuf;

/// The arguments of `serin key`.
#[derive(Debug, Clone, Args)]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum KeyCommand {
    /// Make a key and print it; it cannot be shown again.
    New {
        #[command(flatten)]
        file: WhichFile,
        /// Name of the key's owner, for people.
        #[arg(long)]
        name: String,
        /// Scopes of the key: inference, metrics, admin; separate several with commas.
        #[arg(long, value_delimiter = ',', required = true)]
        scope: Vec<Scope>,
        /// Limit on requests per minute.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        requests_per_minute: Option<u32>,
        /// Limit on tokens per minute, of prompts and replies together.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        tokens_per_minute: Option<u32>,
        /// Limit on requests in flight at a time.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        concurrency: Option<u32>,
        /// When the key expires: 2027-01-31, 2027-01-31T12:00:00Z, or 90d.
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
    },
    /// Show all keys; secrets are not kept and not shown.
    List {
        #[command(flatten)]
        file: WhichFile,
    },
    /// Remove a key: it is refused from then on.
    Revoke {
        #[command(flatten)]
        file: WhichFile,
        /// Its id (see `serin key list`).
        id: String,
    },
}

/// Which keys file.
#[derive(Debug, Clone, Args)]
struct WhichFile {
    /// The keys file.
    #[arg(long, value_name = "FILE", env = "SERIN_KEYS", conflicts_with = "config")]
    keys: Option<PathBuf>,
    /// The config file that names the keys file (`[access] keys`).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl WhichFile {
    fn open(&self) -> Result<KeysFile, CliError> {
        if let Some(path) = &self.keys {
            return Ok(KeysFile::at(path.clone()));
        }
        let Some(config) = &self.config else {
            let text =
                "which keys file? name it with --keys keys.toml, or with --config serin.toml";
            return Err(CliError(text.to_owned()));
        };
        let named = Config::read(config).map_err(CliError::from_text)?.access.keys;
        named.map(KeysFile::at).ok_or_else(|| {
            let config = config.display();
            CliError(format!("{config} names no keys file; add: [access] keys = \"keys.toml\""))
        })
    }
}

pub(super) fn run(args: &KeyArgs) -> Result<(), CliError> {
    match args.command.clone() {
        KeyCommand::New {
            file,
            name,
            mut scope,
            requests_per_minute,
            tokens_per_minute,
            concurrency,
            expires,
        } => {
            let now = now();
            let expires = expires.map(|text| parse_expiry(&text, now)).transpose();
            let expires = expires.map_err(|what| CliError(format!("--expires: {what}")))?;
            scope.sort();
            scope.dedup();
            let limits = KeyLimits { requests_per_minute, tokens_per_minute, concurrency };
            let random = (rand::random(), rand::random());
            let file = file.open()?;
            let made = file.add(NewKey { name, scopes: scope, limits, expires }, random, now);
            let (key, secret) = made.map_err(CliError::from_text)?;
            println!("{}", secret.reveal());
            let at = file.path().display();
            eprintln!("serin: made key {} in {at}; this is the only time that it is shown", key.id);
        }
        KeyCommand::List { file } => {
            let keys = file.open()?.read().map_err(CliError::from_text)?;
            let now = now().as_second();
            keys.iter().for_each(|key| println!("{}", line(key, now)));
        }
        KeyCommand::Revoke { file, id } => {
            file.open()?.remove(&id).map_err(CliError::from_text)?;
            println!("{} is revoked", sanitize::line(&id));
        }
    }
    Ok(())
}

fn now() -> Timestamp {
    Timestamp::try_from(std::time::SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn line(key: &Key, unix_now: i64) -> String {
    let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
    let mut text = format!("{}  {}  {}", key.id, sanitize::line(&key.name), scopes.join(","));
    let limits = [
        (key.limits.requests_per_minute, "requests/min"),
        (key.limits.tokens_per_minute, "tokens/min"),
        (key.limits.concurrency, "at a time"),
    ];
    for (limit, what) in limits {
        if let Some(limit) = limit {
            text += &format!("  {limit} {what}");
        }
    }
    text += &format!("  made {}", key.created.strftime("%Y-%m-%d"));
    match (key.expires, key.expired(unix_now)) {
        (Some(at), true) => text + &format!("  EXPIRED {at}"),
        (Some(at), false) => text + &format!("  until {at}"),
        (None, _) => text,
    }
}
