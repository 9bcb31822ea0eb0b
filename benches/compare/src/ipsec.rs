//! Intel's ipsec-mb as a peer: a program of its own (`ipsec-peer.c`, which `ci/bench` builds where Debian has the library), so
//! that nothing here calls into C for it. It is asked over pipes and times itself.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

/// Holds the path of the program; without it, there is no such peer.
const VARIABLE: &str = "STRONGROOM_IPSEC_PEER";

/// A running program, for one key, counter and size.
pub(crate) struct Ipsec {
    child: Child,
    // Closed before the child is waited for, which ends it.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Ipsec {
    pub(crate) fn start(key: &[u8], iv: &[u8; 16], bytes: usize, across: bool) -> Option<Self> {
        let program = env::var_os(VARIABLE)?;
        let mut child = Command::new(program)
            .args([hex(key), hex(iv), bytes.to_string(), u8::from(across).to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program that the environment names runs");
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Some(Self {
            child,
            requests,
            answers,
        })
    }

    /// The ciphertext of `bytes` bytes of `cases::pattern`.
    pub(crate) fn show(&mut self, bytes: usize) -> Vec<u8> {
        self.ask("show");
        let mut cipher = vec![0; bytes];
        self.answers
            .read_exact(&mut cipher)
            .expect("as many bytes as it was started for");
        cipher
    }

    pub(crate) fn run(&mut self, count: usize) -> Duration {
        self.ask(&format!("run {count}"));
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        Duration::from_nanos(line.trim().parse().expect("nanoseconds"))
    }

    fn ask(&mut self, request: &str) {
        let mut requests = self.requests.as_ref().expect("open until dropped");
        writeln!(requests, "{request}").expect("it reads on");
    }
}

impl Drop for Ipsec {
    fn drop(&mut self) {
        self.requests = None;
        _ = self.child.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
