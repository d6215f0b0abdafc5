// SPDX-License-Identifier: GPL-2.0

//! Fingerprints of states: 64 bits, so that two states of a few million hardly ever share one.

use std::hash::{Hash, Hasher};

/// The fingerprint of a state.
pub(super) fn fingerprint(state: &impl Hash) -> u64 {
    let mut fold = Fold::default();
    state.hash(&mut fold);
    fold.finish()
}

/// Folds eight bytes at a time: states are made of many bytes.
#[derive(Default)]
struct Fold {
    bytes: u64,
    nr_bytes: u32,
    folded: u64,
}

impl Fold {
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.folded ^ word) * u128::from(0x9e37_79b9_7f4a_7c15u64);
        self.folded = (product as u64 ^ (product >> 64) as u64).wrapping_add(0xe703_7ed1_a0b4_28db);
    }
}

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u8(byte));
    }

    fn write_u8(&mut self, byte: u8) {
        self.bytes = self.bytes << 8 | u64::from(byte);
        self.nr_bytes += 1;
        if self.nr_bytes.is_multiple_of(8) {
            self.fold(self.bytes);
        }
    }

    /// A length: all of ours are fixed, but those of a `Vec`.
    fn write_usize(&mut self, length: usize) {
        self.write_u8(length as u8);
    }

    /// Which variant an `enum` has.
    fn write_isize(&mut self, variant: isize) {
        self.write_u8(variant as u8);
    }

    fn finish(&self) -> u64 {
        let mut end = Self { ..*self };
        end.fold(self.bytes);
        end.fold(u64::from(self.nr_bytes));
        end.folded
    }
}

/// For what is a hash already.
#[derive(Default)]
pub(super) struct Already(u64);

impl Hasher for Already {
    fn write(&mut self, _: &[u8]) {
        unreachable!("fingerprints are u64");
    }

    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::fingerprint;
    use std::collections::HashSet;

    #[test]
    fn different_states_have_different_fingerprints() {
        let states = (0..1u32 << 16).map(|n| (n as u8, [0u8; 5], (n >> 8) as u8, false));
        let seen: HashSet<u64> = states.map(|state| fingerprint(&state)).collect();
        assert_eq!(seen.len(), 1 << 16);
    }
}
