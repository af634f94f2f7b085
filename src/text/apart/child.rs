//! The subprocess that renders one version's templates: it reads jobs from standard input, writes texts to
//! standard output, and exits when the input ends.
//!
//! It sets its own limits before it reads anything. Memory, stack and core files (none) are limited once, CPU time
//! before every batch. Exceeding a limit ends it, and the parent sees from the exit status which limit it was.

use super::super::template::{ChatTemplate, Job, Program, Stop};
use super::{CPU_SECONDS, END, MEMORY, OK, STACK, STOPPED, receive, send};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::io::{self, BufWriter, Read, Write};
use std::process::ExitCode;

/// Serves until the input ends. This is all that `serin render-templates` does.
pub fn serve() -> ExitCode {
    bound(Resource::Core, 0);
    bound(Resource::Data, MEMORY);
    let room = std::thread::Builder::new().stack_size(STACK);
    let served = room.spawn(run).map(std::thread::JoinHandle::join);
    match served {
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        // The same status as after an uncaught panic.
        Ok(Err(_)) => ExitCode::from(101),
        Ok(Ok(Err(error))) | Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut output = BufWriter::new(io::stdout().lock());
    let program: Program = match receive(&mut input) {
        Ok(frame) => serde_json::from_slice(&frame)?,
        // Closed before it was needed.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
        Err(error) => return Err(error),
    };
    allow_time();
    let template = match ChatTemplate::compile(&program) {
        Ok(template) => template,
        Err(stop) => {
            answer(&mut output, Err(stop))?;
            return end(&mut output);
        }
    };
    end(&mut output)?;
    while let Some(jobs) = next(&mut input)? {
        allow_time();
        for job in jobs {
            let result = template.render(&job);
            let last = matches!(result, Err(Stop::Exhausted(_)));
            answer(&mut output, result)?;
            if last {
                break;
            }
        }
        end(&mut output)?;
    }
    Ok(())
}

/// The next batch; `None` at the end of the input.
fn next(input: &mut impl Read) -> io::Result<Option<Vec<Job>>> {
    match receive(input) {
        Ok(frame) => Ok(Some(serde_json::from_slice(&frame)?)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn answer(output: &mut impl Write, result: Result<String, Stop>) -> io::Result<()> {
    match result {
        Ok(text) => {
            output.write_all(&[OK])?;
            send(output, text.as_bytes())
        }
        Err(stop) => {
            output.write_all(&[STOPPED])?;
            send(output, &serde_json::to_vec(&stop)?)
        }
    }
}

fn end(output: &mut impl Write) -> io::Result<()> {
    output.write_all(&[END])?;
    output.flush()
}

/// Lowers a limit of this process; a lower limit of the system stays.
fn bound(resource: Resource, most: u64) {
    let now = getrlimit(resource);
    let most = now.maximum.map_or(most, |maximum| most.min(maximum));
    // Lowering one's own limit is always allowed.
    let _ = setrlimit(resource, Rlimit { current: Some(most), maximum: now.maximum });
}

/// Grants processor time for the next batch, on top of what has been used.
fn allow_time() {
    let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec.max(0) as u64;
    bound(Resource::Cpu, used + CPU_SECONDS);
}
