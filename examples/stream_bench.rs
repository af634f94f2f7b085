//! What a streamed token costs serin apart from the model: replies of a scripted engine, measured in processor time.
//!
//! `cargo run --release --features testing --example stream_bench -- MODE` with the modes `gateway` (the replies are
//! taken from the gateway, without HTTP), `app` (as the bytes of events, without sockets) and `serve` (over a socket;
//! prints its address and serves until it is killed; scripts/bench_stream measures it and nginx in front of it).
//!
//! `gateway` and `app` print a JSON object. Nothing here knows nginx, and nothing is judged.

use axum::body::Body;
use axum::http::Request;
use clap::{Parser, ValueEnum};
use futures_util::{StreamExt, stream};
use serde_json::json;
use serin::access::Access;
use serin::http::{AppState, Bounds, Intake, Lifecycle, Live, Operators, client_app, serve};
use serin::serving::testing::FakeServer;
use serin::serving::{Gateway, GenerateRequest, Piece, Prompt};
use std::path::Path;
use std::time::{Duration, Instant};
use tower::ServiceExt;

type Failure = Box<dyn std::error::Error>;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    Gateway,
    App,
    Serve,
}

#[derive(Debug, Parser)]
struct Args {
    mode: Mode,
    /// Tokens of each reply.
    #[arg(long, default_value_t = 400)]
    tokens: usize,
    /// Replies in all.
    #[arg(long, default_value_t = 320)]
    replies: usize,
    /// Replies at a time.
    #[arg(long, default_value_t = 16)]
    at_once: usize,
    /// Microseconds of each step, which gives every running reply one token.
    #[arg(long, default_value_t = 1000)]
    step_us: u64,
}

/// A gateway over an engine that replies with a fixed number of tokens, each of which shows a text.
async fn gateway(args: &Args) -> Result<Gateway, Failure> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-v1");
    let mut server = FakeServer::replying(&folder, 1024, "a")?;
    let script = server.model("stable").ok_or("no stable model")?;
    let token = *script.reply.first().ok_or("no token")?;
    script.reply = vec![token; args.tokens];
    script.step_time = Duration::from_micros(args.step_us);
    script.capacity.max_len = args.tokens + 256;
    server.start().await
}

fn state(gateway: Gateway) -> AppState {
    let (intake, operators) = (Intake::new(1 << 20), Operators::default());
    AppState {
        gateway,
        metrics: None,
        body_limit: 1 << 20,
        intake,
        operators,
        live: Live::default(),
        access: Access::open(),
        log_requests: false,
        stable_for: Default::default(),
        recorder: None,
    }
}

/// Seconds of processor time of this process, in user and kernel mode.
fn processor_time() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> =
        stat.rsplit_once(')').ok_or("no fields")?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    // The kernel counts in hundredths of a second.
    Ok((ticks(11).ok_or("no user time")? + ticks(12).ok_or("no system time")?) / 100.0)
}

/// One reply from the gateway; the number of its texts.
async fn from_gateway(gateway: Gateway, n: usize, tokens: usize) -> Result<usize, String> {
    let prompt = Prompt::Text("Good morning.".to_owned());
    let mut request = GenerateRequest::of(&format!("bench-{n}"), prompt);
    request.max_tokens = Some(tokens);
    let mut generation = gateway.generate(request).await.map_err(|error| error.to_string())?;
    let mut texts = 0;
    while let Some(piece) = generation.pieces.recv().await {
        match piece {
            Piece::Text { .. } => texts += 1,
            Piece::Failed(error) => return Err(error.to_string()),
            _ => {}
        }
    }
    Ok(texts)
}

/// One streamed reply as bytes: the number of its events, and the time for which the HTTP layer held its thread to
/// make them, reading the pieces from the gateway included. It is measured around each poll of the body, so that whatever
/// else happens on other threads does not count; a thread that is preempted meanwhile counts as busy.
async fn from_app(app: axum::Router, tokens: usize) -> Result<(usize, Duration), String> {
    let body = json!({"prompt": "Good morning.", "stream": true, "max_tokens": tokens});
    let request = Request::post("/v1/completions").body(Body::from(body.to_string()));
    let request = request.map_err(|error| error.to_string())?;
    let reply = app.oneshot(request).await.map_err(|error| error.to_string())?;
    let mut data = reply.into_body().into_data_stream();
    let (mut events, mut held) = (0, Duration::ZERO);
    loop {
        let next = std::future::poll_fn(|context| {
            let begun = Instant::now();
            let next = data.poll_next_unpin(context);
            held += begun.elapsed();
            next
        });
        let Some(bytes) = next.await else { return Ok((events, held)) };
        let bytes = bytes.map_err(|error| error.to_string())?;
        events += bytes.windows(2).filter(|pair| pair == b"\n\n").count();
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let gateway = gateway(&args).await?;
    let app = client_app(state(gateway.clone()), &[]);
    if let Mode::Serve = args.mode {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        serve(listener, app, Bounds::default(), Lifecycle::new()).await;
        return Ok(());
    }
    let begun = (processor_time()?, Instant::now());
    let each = stream::iter(0..args.replies).map(|n| {
        let (gateway, app, tokens) = (gateway.clone(), app.clone(), args.tokens);
        async move {
            match args.mode {
                Mode::Gateway => {
                    from_gateway(gateway, n, tokens).await.map(|texts| (texts, Duration::ZERO))
                }
                _ => from_app(app, tokens).await,
            }
        }
    });
    let replies: Vec<Result<_, String>> = each.buffer_unordered(args.at_once).collect().await;
    let (mut parts, mut held) = (0, Duration::ZERO);
    for reply in replies {
        let (events, time) = reply?;
        parts += events;
        held += time;
    }
    let (used, wall) = (processor_time()? - begun.0, begun.1.elapsed().as_secs_f64());
    let tokens = (args.replies * args.tokens) as f64;
    let mode = format!("{:?}", args.mode).to_lowercase();
    let figures = json!({"mode": mode, "tokens": tokens, "parts": parts, "cpu_us_per_token": used / tokens * 1e6,
        "http_us_per_token": held.as_secs_f64() / tokens * 1e6, "wall_s": wall});
    println!("{figures}");
    Ok(())
}
