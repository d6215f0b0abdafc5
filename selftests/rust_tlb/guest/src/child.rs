// SPDX-License-Identifier: GPL-2.0

//! Forked processes that do not outlive the one that forked them.

use core::time::Duration;
use std::io::Write;
use std::panic::{catch_unwind, AssertUnwindSafe};

use anyhow::{bail, ensure, Result};
use rustix::event::{poll, PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{self, Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};

use crate::progress;

/// Exit code of a child whose body failed.
const FAILED: i32 = 1;

/// A forked process, killed and reaped when it goes out of scope.
pub struct Child {
    pid: Pid,
    reaped: bool,
}

impl Child {
    /// Forks a process that runs `body` and exits, with success if `body` did.
    pub fn fork(body: impl FnOnce() -> Result<()>) -> Result<Self> {
        Self::fork_with_code(|| match body() {
            Ok(()) => 0,
            Err(error) => {
                println!("# {error:#}");
                FAILED
            }
        })
    }

    /// Forks a process that exits with what `body` returns.
    pub fn fork_with_code(body: impl FnOnce() -> i32) -> Result<Self> {
        // What is still buffered would be written by both.
        std::io::stdout().flush()?;
        // SAFETY: glibc makes its allocator usable in the child, also where other threads exist,
        // and those never hold the lock of stdout: they do not print.
        match unsafe { libc::fork() } {
            -1 => Err(std::io::Error::last_os_error().into()),
            0 => run_child(body),
            pid => Ok(Self {
                pid: Pid::from_raw(pid).expect("a child has a pid"),
                reaped: false,
            }),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for the end and demands that it was a success.
    pub fn join(mut self) -> Result<()> {
        let status = self.reap()?;
        ensure!(
            status.exit_status() == Some(0),
            "a child {}",
            describe(status)
        );
        Ok(())
    }

    /// Waits for the end, whatever it is.
    pub fn wait(mut self) -> Result<WaitStatus> {
        self.reap()
    }

    /// Waits for the end, but no longer than `limit`.
    pub fn wait_for(&mut self, limit: Duration) -> Result<Option<WaitStatus>> {
        let pidfd = process::pidfd_open(self.pid, PidfdFlags::empty())?;
        let mut waited_for = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut waited_for, Some(&limit.try_into()?))? {
            0 => Ok(None),
            _ => self.reap().map(Some),
        }
    }

    /// Kills it and waits for its end.
    pub fn kill(mut self) -> Result<WaitStatus> {
        process::kill_process(self.pid, Signal::KILL)?;
        self.reap()
    }

    /// Fails if it has ended already.
    pub fn check_alive(&self) -> Result<()> {
        let options = process::WaitIdOptions::EXITED
            | process::WaitIdOptions::NOHANG
            | process::WaitIdOptions::NOWAIT;
        if process::waitid(process::WaitId::Pid(self.pid), options)?.is_some() {
            bail!("a child ended too early");
        }
        Ok(())
    }

    fn reap(&mut self) -> Result<WaitStatus> {
        loop {
            match process::waitpid(Some(self.pid), WaitOptions::empty()) {
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
                Ok(ended) => {
                    self.reaped = true;
                    progress::step();
                    return Ok(ended.expect("a wait without NOHANG returns a child").1);
                }
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            // Nothing is lost if it has ended by itself.
            let _ = process::kill_process(self.pid, Signal::KILL);
            let _ = self.reap();
        }
    }
}

/// Says how a process ended.
pub fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => String::from("ended in an unknown way"),
    }
}

fn run_child(body: impl FnOnce() -> i32) -> ! {
    let orphaned = process::set_parent_process_death_signal(Some(Signal::KILL));
    let code = match (orphaned, catch_unwind(AssertUnwindSafe(body))) {
        (Ok(()), Ok(code)) => code,
        // The panic hook has said why.
        _ => FAILED,
    };
    let _ = std::io::stdout().flush();
    // SAFETY: Ends the process without the parent's exit handlers, which are not the child's.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_how_a_child_ended() {
        Child::fork(|| Ok(())).unwrap().join().unwrap();
        let failed = Child::fork_with_code(|| 7).unwrap().join().unwrap_err();
        assert_eq!(failed.to_string(), "a child exited with 7");
    }

    #[test]
    fn a_child_that_takes_too_long_can_be_killed() {
        let mut child = Child::fork(|| loop {
            std::thread::sleep(Duration::from_secs(1));
        })
        .unwrap();
        assert!(child.wait_for(Duration::from_millis(10)).unwrap().is_none());
        child.check_alive().unwrap();
        assert_eq!(child.kill().unwrap().terminating_signal(), Some(9));
    }
}
