// SPDX-License-Identifier: GPL-2.0

//! What goes to and from the driver: `include/uapi/linux/android/binder.h`, as far as it is used.

use anyhow::{bail, Context, Result};

/// `BINDER_WRITE_READ`.
pub const WRITE_READ: u32 = 0xc030_6201;
/// `BINDER_SET_CONTEXT_MGR`.
pub const SET_CONTEXT_MGR: u32 = 0x4004_6207;

/// `BC_TRANSACTION`, to the service that is the context's manager.
pub const BC_TRANSACTION: u32 = 0x4040_6300;
/// `BC_REPLY`.
pub const BC_REPLY: u32 = 0x4040_6301;
/// `BC_FREE_BUFFER`.
pub const BC_FREE_BUFFER: u32 = 0x4008_6303;
/// `BC_ENTER_LOOPER`.
pub const BC_ENTER_LOOPER: u32 = 0x630c;

const BR_TRANSACTION: u32 = 0x8040_7202;
const BR_REPLY: u32 = 0x8040_7203;
const BR_DEAD_REPLY: u32 = 0x7205;
const BR_TRANSACTION_COMPLETE: u32 = 0x7206;
const BR_NOOP: u32 = 0x720c;
const BR_SPAWN_LOOPER: u32 = 0x720d;
const BR_FAILED_REPLY: u32 = 0x7211;

/// `struct binder_write_read`.
#[repr(C)]
#[derive(Default)]
pub struct WriteRead {
    pub write_size: u64,
    pub write_consumed: u64,
    pub write_buffer: u64,
    pub read_size: u64,
    pub read_consumed: u64,
    pub read_buffer: u64,
}

/// `struct binder_transaction_data`: data only, no objects.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    pub target: u64,
    pub cookie: u64,
    pub code: u32,
    pub flags: u32,
    pub sender_pid: i32,
    pub sender_euid: u32,
    pub data_len_bytes: u64,
    pub offsets_len_bytes: u64,
    pub buffer: u64,
    pub offsets: u64,
}

impl Transaction {
    /// One that carries `data`, which has to stay where it is until the driver has read it.
    pub fn carrying(code: u32, data: &[u8]) -> Self {
        Self {
            code,
            data_len_bytes: data.len() as u64,
            buffer: data.as_ptr() as u64,
            ..Self::default()
        }
    }

    fn words(&self) -> [u64; 8] {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        [
            self.target,
            self.cookie,
            pair(self.code, self.flags),
            pair(self.sender_pid as u32, self.sender_euid),
            self.data_len_bytes,
            self.offsets_len_bytes,
            self.buffer,
            self.offsets,
        ]
    }

    fn from_words(words: [u64; 8]) -> Self {
        Self {
            target: words[0],
            cookie: words[1],
            code: words[2] as u32,
            flags: (words[2] >> 32) as u32,
            sender_pid: words[3] as u32 as i32,
            sender_euid: (words[3] >> 32) as u32,
            data_len_bytes: words[4],
            offsets_len_bytes: words[5],
            buffer: words[6],
            offsets: words[7],
        }
    }
}

/// Commands to the driver, in the order in which it is to take them.
#[derive(Default)]
pub struct Commands(Vec<u8>);

impl Commands {
    /// A command that stands alone.
    pub fn plain(mut self, command: u32) -> Self {
        self.0.extend(command.to_ne_bytes());
        self
    }

    /// A command and a word.
    pub fn word(mut self, command: u32, word: u64) -> Self {
        self.0.extend(command.to_ne_bytes());
        self.0.extend(word.to_ne_bytes());
        self
    }

    /// A command and a transaction.
    pub fn transaction(self, command: u32, transaction: &Transaction) -> Self {
        let mut this = self.plain(command);
        for word in transaction.words() {
            this.0.extend(word.to_ne_bytes());
        }
        this
    }

    /// The bytes that the driver reads.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What the driver said.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// Somebody calls.
    Transaction(Transaction),
    /// The answer to a call of ours.
    Reply(Transaction),
    /// The driver has taken what we sent.
    Taken,
    /// What we sent has not arrived: the other one is dead, or had no room.
    Lost,
}

/// Reads what the driver wrote; what tells nothing is left out.
pub fn parse(mut bytes: &[u8]) -> Result<Vec<Said>> {
    let mut said = Vec::new();
    while let Some((code, rest)) = bytes.split_first_chunk() {
        bytes = rest;
        match u32::from_ne_bytes(*code) {
            BR_NOOP | BR_SPAWN_LOOPER => {}
            BR_TRANSACTION_COMPLETE => said.push(Said::Taken),
            BR_DEAD_REPLY | BR_FAILED_REPLY => said.push(Said::Lost),
            BR_TRANSACTION => said.push(Said::Transaction(take_transaction(&mut bytes)?)),
            BR_REPLY => said.push(Said::Reply(take_transaction(&mut bytes)?)),
            other => bail!("the driver said {other:#x}"),
        }
    }
    Ok(said)
}

fn take_transaction(bytes: &mut &[u8]) -> Result<Transaction> {
    let mut words = [0; 8];
    for word in &mut words {
        let (first, rest) = bytes.split_first_chunk().context("cut off")?;
        *word = u64::from_ne_bytes(*first);
        *bytes = rest;
    }
    Ok(Transaction::from_words(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_large_as_the_ioctl_and_the_commands_say() {
        assert_eq!(size_of::<WriteRead>() as u32, WRITE_READ >> 16 & 0x3fff);
        assert_eq!(size_of::<Transaction>() as u32, BC_REPLY >> 16 & 0x3fff);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let transaction = Transaction {
            target: 1,
            code: 2,
            flags: 3,
            sender_pid: -4,
            sender_euid: 5,
            ..Transaction::carrying(2, b"data")
        };
        let commands = Commands::default()
            .plain(BR_NOOP)
            .transaction(BR_REPLY, &transaction)
            .plain(BR_TRANSACTION_COMPLETE);
        let expected = [Said::Reply(transaction), Said::Taken];
        assert_eq!(parse(commands.bytes()).unwrap(), expected);
    }

    #[test]
    fn an_error_or_half_a_transaction_is_not_passed_over() {
        let error = Commands::default().plain(0x7200);
        assert!(parse(error.bytes()).is_err());
        let dead = Commands::default().plain(BR_DEAD_REPLY);
        assert_eq!(parse(dead.bytes()).unwrap(), [Said::Lost]);
        let half = Commands::default().word(BR_REPLY, 0);
        assert!(parse(half.bytes()).is_err());
    }
}
