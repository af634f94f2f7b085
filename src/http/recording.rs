//! Prompts that clients agreed to have recorded (`"store": true`), appended to a file for `serin bench --prompts`.
//!
//! A separate thread writes, so that no request waits for the disk. Prompts that do not fit the queue or the file's
//! limit are dropped and counted. A line has only the conversation and the maximum number of reply tokens: no key,
//! address, session or reply. The caller checks for consent, not this file.

use crate::metrics;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// Lines that may wait for the disk.
const QUEUE: usize = 256;

/// Appends prompts to a file. Copies share it.
#[derive(Debug, Clone)]
pub struct Recorder(SyncSender<Vec<u8>>);

impl Recorder {
    /// Opens or creates the file, which only its owner may read, and starts the thread that writes. The file never
    /// becomes longer than `most` bytes.
    ///
    /// # Errors
    /// If the file cannot be opened, read or written, or no thread can be started.
    pub fn open(path: &Path, most: u64) -> io::Result<Recorder> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).mode(0o600).open(path)?;
        let length = whole_lines(&mut file)?;
        file.set_len(length)?;
        file.seek(SeekFrom::End(0))?;
        let (sender, lines) = sync_channel(QUEUE);
        let mut log = Log { file, left: most.saturating_sub(length) };
        let write = move || log.follow(&lines);
        thread::Builder::new().name("serin-prompts".to_owned()).spawn(write)?;
        Ok(Recorder(sender))
    }

    /// Records a conversation, with the most tokens that its reply may have. Does not wait.
    pub fn record(&self, messages: &[Value], max_tokens: Option<usize>) {
        let mut line = json!({"messages": messages});
        if let Some(max_tokens) = max_tokens {
            line["max_tokens"] = max_tokens.into();
        }
        if self.0.try_send(format!("{line}\n").into_bytes()).is_err() {
            metrics::prompt_recorded("dropped");
        }
    }
}

/// Where the last whole line ends: a process that was killed may have left a part of one.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    const STEP: u64 = 64 << 10;
    let mut end = file.metadata()?.len();
    while end > 0 {
        let start = end.saturating_sub(STEP);
        let mut bytes = vec![0; (end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut bytes)?;
        if let Some(at) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

struct Log {
    file: File,
    /// Bytes that may still be written.
    left: u64,
}

impl Log {
    fn follow(&mut self, lines: &Receiver<Vec<u8>>) {
        let mut well = true;
        for line in lines {
            let written = self.write(&line);
            metrics::prompt_recorded(if written.is_ok() { "written" } else { "dropped" });
            match written {
                Err(error) if well => {
                    tracing::warn!(%error, "prompts are not recorded (server.record_prompts)");
                    well = false;
                }
                written => well = written.is_ok(),
            }
        }
    }

    /// Appends a line, or nothing.
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let left = self.left.checked_sub(line.len() as u64);
        let full = || io::Error::new(io::ErrorKind::StorageFull, "the file has its largest size");
        let left = left.ok_or_else(full)?;
        let start = self.file.stream_position()?;
        let written = self.file.write_all(line);
        match written {
            Ok(()) => self.left = left,
            Err(_) => {
                self.file.set_len(start)?;
                self.file.seek(SeekFrom::Start(start))?;
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// The file's text once it has as many lines.
    fn read(path: &Path, lines: usize) -> String {
        let begun = Instant::now();
        loop {
            let text = std::fs::read_to_string(path).expect("a file");
            if text.lines().count() >= lines || begun.elapsed() > Duration::from_secs(20) {
                return text;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn user(text: &str) -> Vec<Value> {
        vec![json!({"role": "user", "content": text})]
    }

    #[test]
    fn a_file_is_continued_after_its_last_whole_line() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("prompts.jsonl");
        Recorder::open(&path, 1 << 20).expect("a new file").record(&user("first\nline"), Some(7));
        assert_eq!(read(&path, 1).lines().count(), 1);
        let whole = std::fs::read(&path).expect("a file");
        for torn in ["", "{\"mess", &"x".repeat(200_000)] {
            std::fs::write(&path, [&whole, torn.as_bytes()].concat()).expect("written");
            Recorder::open(&path, 1 << 20).expect("the same file").record(&user("next"), None);
            let text = read(&path, 2);
            let lines: Vec<Value> =
                text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
            let expected = [
                json!({"messages": user("first\nline"), "max_tokens": 7}),
                json!({"messages": user("next")}),
            ];
            assert_eq!(lines, expected);
        }
    }

    #[test]
    fn a_full_file_gets_no_part_of_a_line() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("prompts.jsonl");
        let recorder = Recorder::open(&path, 100).expect("a new file");
        recorder.record(&user("fits"), None);
        recorder.record(&user(&"too long ".repeat(20)), None);
        recorder.record(&user("x"), None);
        drop(recorder);
        let text = read(&path, 2);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.len() <= 100 && text.ends_with('\n'));
        // Nor may others read what clients have said.
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}
