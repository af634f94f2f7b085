//! A real `serin` process, its port and its responses, for tests that need one.
//!
//! The system chooses the ports; a process is killed when its handle is dropped.

#![allow(dead_code, reason = "each test binary uses a part")]

use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Maximum wait for anything; the machine may be busy.
pub const LONG: Duration = Duration::from_secs(120);

pub fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

/// A config file in this folder that serves tiny-v1; `rest` is appended and may begin with more keys of
/// `[engine]`. Returns its path.
pub fn config(dir: &Path, rest: &str) -> String {
    let (stable, path) = (models().join("tiny-v1"), dir.join("serin.toml"));
    let text = format!(
        "[model]\nname = \"tiny\"\nstable = {stable:?}\n[engine]\nkv_memory = \"16MiB\"\n{rest}\n"
    );
    fs::write(&path, text).expect("written");
    path.to_str().expect("text").to_owned()
}

/// The rest of a config whose rollouts move only by order, for servers that exit at once when told to.
pub const BY_ORDER: &str =
    "[server]\ndrain = \"1s\"\nlame_duck = \"0s\"\n[rollout]\nbake = \"1h\"\n";

/// Runs a command to its end.
pub fn serin(args: &[&str]) -> Output {
    serin_with(args, &[])
}

/// Like [`serin`], with more environment variables.
pub fn serin_with(args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_serin"));
    command.args(args).env_remove("SERIN_SERVER").envs(environment.iter().copied());
    command.output().expect("serin runs")
}

/// A serving process.
pub struct Process {
    child: Child,
    out: BufReader<ChildStdout>,
    pub addr: String,
    /// The operators' address.
    pub operators: String,
}

impl Process {
    /// Starts `serin serve` with these arguments on a free port and waits until it is ready.
    pub fn serve(args: &[&str]) -> Process {
        Process::start(Command::new(env!("CARGO_BIN_EXE_serin")), args)
    }

    /// Like [`Process::serve`], with more environment variables and a log that nobody reads.
    pub fn serve_unread(args: &[&str], environment: &[(&str, &str)]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_serin"));
        command.envs(environment.iter().copied());
        Process::start_logged(command, args, Stdio::piped())
    }

    /// Like [`Process::serve`], with its log in a file.
    pub fn serve_logged(args: &[&str], log: &Path) -> Process {
        let command = Command::new(env!("CARGO_BIN_EXE_serin"));
        Process::start_logged(command, args, File::create(log).expect("a file").into())
    }

    fn start(command: Command, args: &[&str]) -> Process {
        Process::start_logged(command, args, Stdio::null())
    }

    fn start_logged(mut command: Command, args: &[&str], log: Stdio) -> Process {
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(args);
        let mut process = Process::spawn_logged(command, "", log);
        process.greeted();
        process
    }

    /// Starts a server without waiting; `addr` is where it will be, with operators on the next port.
    pub fn spawn(command: Command, addr: &str) -> Process {
        Process::spawn_logged(command, addr, Stdio::null())
    }

    fn spawn_logged(mut command: Command, addr: &str, log: Stdio) -> Process {
        command.stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().expect("serin starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        Process { child, out, addr: addr.to_owned(), operators: operators_beside(addr) }
    }

    /// Waits until a server prints its address, and stores it.
    pub fn greeted(&mut self) {
        assert!(self.greets(), "it has ended");
    }

    /// Like [`Process::greeted`]; returns `false` if the process ended before.
    pub fn greets(&mut self) -> bool {
        let mut line = String::new();
        while !line.starts_with("serin serves ") {
            line.clear();
            if self.out.read_line(&mut line).expect("a line") == 0 {
                return false;
            }
        }
        self.addr = line.rsplit("http://").next().expect("an address").trim().to_owned();
        assert!(self.addr.starts_with("127."), "greeting: {line:?}");
        line.clear();
        self.out.read_line(&mut line).expect("a line");
        let operators = line.strip_prefix("operators: http://").and_then(|at| at.split(' ').next());
        self.operators = operators.expect("where operators are served").trim().to_owned();
        true
    }

    /// The listener for a path.
    fn door(&self, path: &str) -> &str {
        if path.starts_with("/admin/") { &self.operators } else { &self.addr }
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: &str) {
        send_signal(self.id(), signal);
    }

    /// Waits for its exit.
    pub fn end(mut self) -> ExitStatus {
        wait_for("its end", || self.child.try_wait().expect("a child"))
    }

    /// Like [`Process::end`]; if a signal has not ended it, the signal is sent once more.
    pub fn end_with(mut self, again: Option<u8>) {
        let mut looks = 0;
        wait_for("its end", || {
            looks += 1;
            let ended = self.child.try_wait().expect("a child");
            if let (10, None, Some(signal)) = (looks, ended, again) {
                self.signal(&signal.to_string());
            }
            ended
        });
    }

    pub fn server(&self) -> String {
        format!("http://{}", self.operators)
    }

    /// Runs an operator's command against this process; returns its standard output.
    pub fn operate(&self, args: &[&str]) -> String {
        let output = serin(&[args, &["--server", &self.server()]].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {error}");
        String::from_utf8(output.stdout).expect("text")
    }

    pub fn status(&self) -> Value {
        let (code, body) = self.http("GET", "/admin/status", None);
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// One request on its own connection: status code and body.
    pub fn http(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
        let mut stream = self.send(method, path, body);
        let mut all = String::new();
        stream.read_to_string(&mut all).expect("an answer in time");
        let (head, body) = all.split_once("\r\n\r\n").expect("headers");
        let code = head[9..12].parse().expect("a status");
        (code, body.to_owned())
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Like [`Process::http`]; `None` if the process dies in the meantime.
    pub fn try_http(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.door(path)).ok()?;
        stream.set_read_timeout(Some(LONG)).ok()?;
        stream.write_all(request(method, path, body).as_bytes()).ok()?;
        let mut all = String::new();
        stream.read_to_string(&mut all).ok()?;
        let (head, body) = all.split_once("\r\n\r\n")?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let whole = length.and_then(|n| n.parse().ok()) == Some(body.len());
        whole.then(|| Some((head.get(9..12)?.parse().ok()?, body.to_owned()))).flatten()
    }

    /// Sends a request without reading the response.
    pub fn send(&self, method: &str, path: &str, body: Option<&Value>) -> TcpStream {
        let mut stream = TcpStream::connect(self.door(path)).expect("a connection");
        stream.set_read_timeout(Some(LONG)).expect("a timeout");
        stream.write_all(request(method, path, body).as_bytes()).expect("sent");
        stream
    }

    /// Waits until the status satisfies `holds`.
    pub fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.status();
            if holds(&status) {
                return status;
            }
            assert!(begun.elapsed() < LONG, "never {what}: {status:#}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The operators' address of a server at `addr`, unless its config says otherwise.
pub fn operators_beside(addr: &str) -> String {
    match addr.rsplit_once(':').and_then(|(ip, port)| Some((ip, port.parse::<u16>().ok()?))) {
        Some((ip, port)) => format!("{ip}:{}", port + 1),
        None => String::new(),
    }
}

/// What `open` opens, once its current holder has released it.
pub async fn once_free<T, E: std::fmt::Debug>(open: impl Fn() -> Result<T, E>) -> T {
    let mut opened = open();
    for _ in 0..500 {
        if opened.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        opened = open();
    }
    opened.expect("it is free by now")
}

/// Sends a signal to any process.
pub fn send_signal(pid: u32, signal: &str) {
    let kill = Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status();
    assert!(kill.expect("kill runs").success());
}

/// Repeats until there is a result.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < LONG, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn request(method: &str, path: &str, body: Option<&Value>) -> String {
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// Accepts POSTs and returns their headers and bodies.
pub fn endpoint() -> (String, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let (sender, inbox) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut reader = BufReader::new(stream.try_clone().expect("a clone"));
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                reader.read_line(&mut head).expect("a header");
            }
            let length = head.to_lowercase();
            let length = length.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.expect("a length").trim().parse().expect("a number")];
            reader.read_exact(&mut body).expect("a body");
            let answer = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).expect("answered");
            let body = serde_json::from_slice(&body).expect("JSON");
            if sender.send((head, body)).is_err() {
                return;
            }
        }
    });
    (url, inbox)
}

/// A chat with one question.
pub fn chat(question: &str, stream: bool, max_tokens: u32) -> Value {
    json!({
        "model": "tiny", "stream": stream, "max_tokens": max_tokens, "temperature": 0,
        "messages": [{"role": "user", "content": question}],
    })
}

/// Copies a model folder.
pub fn copy_model(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a model") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
    }
}

/// A memory cgroup of this test.
pub struct Group(PathBuf);

impl Group {
    pub fn make() -> Option<Group> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let root = PathBuf::from("/sys/fs/cgroup/memory");
        let memory = groups.lines().find(|line| line.contains(":memory:"))?;
        let path = memory.rsplit(':').next()?.trim_start_matches('/');
        let at = [root.join(path), root]
            .into_iter()
            .find(|at| at.join("memory.oom_control").is_file())?;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let group = at.join(format!("serin-test-{}-{next}", std::process::id()));
        fs::create_dir(&group).ok()?;
        let limit = group.join("memory.limit_in_bytes");
        fs::write(limit, "-1").is_ok().then_some(Group(group))
    }

    pub fn serve(&self, config: &str) -> Process {
        Process::start(self.command(Path::new(env!("CARGO_BIN_EXE_serin"))), &["--config", config])
    }

    /// A command for `program` in this cgroup.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        command.arg(self.0.join("cgroup.procs")).arg(program);
        command
    }

    /// Sets the limit to a little more than what is in use.
    pub fn starve(&self) {
        let used = fs::read_to_string(self.0.join("memory.usage_in_bytes")).expect("the usage");
        let limit = used.trim().parse::<u64>().expect("bytes") + (2 << 20);
        fs::write(self.0.join("memory.limit_in_bytes"), limit.to_string()).expect("limited");
    }

    /// Makes the kernel kill one process in the cgroup, so that the kill count is not zero at the start.
    pub fn sacrifice(&self) {
        fs::write(self.0.join("memory.limit_in_bytes"), (8 << 20).to_string()).expect("limited");
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec tail /dev/zero"]);
        let status = command.arg(self.0.join("cgroup.procs")).status().expect("it runs");
        assert!(!status.success() && self.kills() > Some(0), "it was killed: {status}");
        self.relieve();
    }

    pub fn relieve(&self) {
        let _ = fs::write(self.0.join("memory.limit_in_bytes"), "-1");
    }

    pub fn kills(&self) -> Option<u64> {
        let text = fs::read_to_string(self.0.join("memory.oom_control")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
