//! Chooses the files of a repository that are needed: one GGUF, or config, tokenizer and safetensors.
//!
//! A pure function of the names. Other files in repositories (other formats, pictures, the same weights
//! twice) are not downloaded.

use super::{HubError, Reference};

const SIDE_FILES: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
];

/// What to download.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) names: Vec<String>,
    /// The model is this single file, not the folder.
    pub(super) single: Option<String>,
}

pub(super) fn files(reference: &Reference, names: &[String]) -> Result<Files, HubError> {
    let none = |what: String| HubError::NoModel { repo: reference.repo.clone(), what };
    let ggufs: Vec<&String> = names.iter().filter(|n| n.ends_with(".gguf")).collect();
    if let Some(wanted) = &reference.file {
        let name = named(wanted, names, &ggufs).map_err(none)?;
        return Ok(Files { names: vec![name.clone()], single: Some(name) });
    }
    let weights = |name: &&String| {
        name.as_str() == "model.safetensors"
            || (name.starts_with("model-") && name.ends_with(".safetensors"))
    };
    let mut found: Vec<String> = names.iter().filter(weights).cloned().collect();
    if found.iter().any(|name| name == "model.safetensors") {
        found.retain(|name| name == "model.safetensors");
    }
    if !found.is_empty() {
        let side = names.iter().filter(|name| SIDE_FILES.contains(&name.as_str()));
        // Small files first, so that errors in them are found before gigabytes are downloaded.
        let names = side.cloned().chain(found).collect();
        return Ok(Files { names, single: None });
    }
    match ggufs.as_slice() {
        [one] => Ok(Files { names: vec![(*one).clone()], single: Some((*one).clone()) }),
        [] => Err(none("neither safetensors nor GGUF".into())),
        many => Err(none(format!("choose one of its GGUF files: {}", list(many)))),
    }
}

/// The file with exactly this name, or the only GGUF whose name contains it.
fn named(wanted: &str, names: &[String], ggufs: &[&String]) -> Result<String, String> {
    if let Some(exact) = names.iter().find(|name| *name == wanted) {
        return Ok(exact.clone());
    }
    let part = wanted.to_lowercase();
    let matching: Vec<&String> =
        ggufs.iter().filter(|name| name.to_lowercase().contains(&part)).copied().collect();
    match matching.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(format!("it has no file {wanted}; its GGUF files: {}", list(ggufs))),
        many => Err(format!("{wanted} could be any of {}", list(many))),
    }
}

fn list(names: &[&String]) -> String {
    const MOST: usize = 12;
    let mut text: Vec<&str> = names.iter().take(MOST).map(|name| name.as_str()).collect();
    if text.is_empty() {
        text.push("none");
    } else if names.len() > MOST {
        text.push("...");
    }
    text.join(", ")
}
