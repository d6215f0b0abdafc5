// SPDX-License-Identifier: GPL-2.0

//! Numbered items with memory for those that are there, and not for those that could be.
//!
//! The numbers are cut into chunks: of as many as a page table maps pages, if each item is a page, and
//! of fewer, if it is a folio. A chunk has memory from its first item on until nothing is left in it.
//!
//! Nothing here allocates, but for [`Room`], which is made beforehand, without a lock.

#![forbid(unsafe_code)]

use kernel::{
    alloc::{
        AllocError,
        Flags,
        KVVec, //
    },
    mm::window::PTRS_PER_PTE, //
};

/// What can be at a number.
pub(crate) trait Item {
    /// Returns whether it is nothing, as where nothing was put.
    fn is_nothing(&self) -> bool;

    /// Returns whether its chunk counts as used.
    fn is_used(&self) -> bool;
}

type Numbered<T> = (usize, T);

/// Memory for a chunk that grows.
pub(crate) struct Room<T>(KVVec<Numbered<T>>);

impl<T> Room<T> {
    /// Makes room for `nr` items.
    pub(crate) fn new(nr: usize, flags: Flags) -> Result<Self, AllocError> {
        KVVec::with_capacity(nr, flags).map(Self)
    }
}

/// A part of the items.
///
/// # Invariants
///
/// - `items` is sorted by number, without one twice.
/// - `nr_there` of them are something; if that is zero, there is no memory.
/// - `nr_used` of them are used.
struct Chunk<T> {
    items: KVVec<Numbered<T>>,
    nr_there: usize,
    nr_used: usize,
    /// The place behind the one that was changed last: who changes many goes upwards.
    next: usize,
}

impl<T: Item> Chunk<T> {
    fn new() -> Self {
        // INVARIANT: No items.
        Self {
            items: KVVec::new(),
            nr_there: 0,
            nr_used: 0,
            next: 0,
        }
    }

    fn find(&self, number: usize) -> Result<usize, usize> {
        match self.items.get(self.next) {
            Some((found, _)) if *found == number => Ok(self.next),
            _ => self.search(number),
        }
    }

    fn search(&self, number: usize) -> Result<usize, usize> {
        let Some((first, _)) = self.items.first() else {
            return Err(0);
        };
        // Where they are one behind the other, as they mostly are, that is its place.
        let nr_before = number.saturating_sub(*first);
        match self.items.get(nr_before) {
            Some((found, _)) if *found == number => Ok(nr_before),
            _ => self.items.binary_search_by_key(&number, |(n, _)| *n),
        }
    }

    /// Counts an item out, and another one in.
    fn count(&mut self, old: (bool, bool), new: (bool, bool)) {
        self.nr_there = self.nr_there + usize::from(new.0) - usize::from(old.0);
        self.nr_used = self.nr_used + usize::from(new.1) - usize::from(old.1);
        if self.nr_there == 0 {
            self.items = KVVec::new();
        }
    }

    /// Makes something else of the item at `at`.
    fn change<R>(&mut self, at: usize, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        let (_, item) = self.items.get_mut(at)?;
        self.next = at + 1;
        let old = kinds(item);
        let answer = change(item);
        let new = kinds(item);
        // INVARIANT: Counted.
        self.count(old, new);
        Some(answer)
    }

    /// Moves the items into more memory.
    fn grow(&mut self, room: Room<T>) {
        let Room(mut items) = room;
        if items.capacity() <= self.items.capacity() {
            return;
        }
        for item in self.items.drain_all() {
            // There is room for more.
            let _ = items.push_within_capacity(item);
        }
        self.items = items;
    }

    /// Puts `item` before the one at `at`.
    fn insert(&mut self, at: usize, number: usize, item: T) -> Result<(), T> {
        let kinds = kinds(&item);
        let pushed = self.items.push_within_capacity((number, item));
        pushed.map_err(|refused| refused.0 .1)?;
        if let Some(behind) = self.items.get_mut(at..) {
            behind.rotate_right(1);
        }
        // INVARIANT: Counted.
        self.count((false, false), kinds);
        Ok(())
    }
}

/// Whether it is something, and whether it is used.
fn kinds<T: Item>(item: &T) -> (bool, bool) {
    (!item.is_nothing(), item.is_used())
}

/// Which chunk of `per_chunk` items, and which number in it.
fn place(number: usize, per_chunk: usize) -> (usize, usize) {
    // No division: it is a power of two.
    let shift = per_chunk.trailing_zeros();
    (number >> shift, number & (per_chunk - 1))
}

/// The items.
pub(crate) struct Sparse<T> {
    chunks: KVVec<Chunk<T>>,
    len: usize,
    /// How many are in a chunk.
    per_chunk: usize,
}

impl<T: Item> Sparse<T> {
    /// Makes `len` items that are nothing.
    pub(crate) fn new(len: usize, flags: Flags) -> Result<Self, AllocError> {
        let nr_chunks = len.div_ceil(PTRS_PER_PTE);
        let mut chunks = KVVec::with_capacity(nr_chunks, flags)?;
        for _ in 0..nr_chunks {
            chunks.push(Chunk::new(), flags)?;
        }
        Ok(Self {
            chunks,
            len,
            per_chunk: PTRS_PER_PTE,
        })
    }

    /// Cuts the items, of which there could be `len` now, and are none, into chunks of `per_chunk`: a power
    /// of two. There must not be more chunks than before.
    pub(crate) fn cut(&mut self, len: usize, per_chunk: usize) {
        self.len = len;
        self.per_chunk = per_chunk;
    }

    /// Which chunk, and which number in it.
    fn place(&self, number: usize) -> (usize, usize) {
        place(number, self.per_chunk)
    }

    /// Returns how many there could be.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns what is at `number`; [`None`] if that is nothing.
    pub(crate) fn get(&self, number: usize) -> Option<&T> {
        let (chunk, number) = self.place(number);
        let chunk = self.chunks.get(chunk)?;
        let at = chunk.find(number).ok()?;
        chunk.items.get(at).map(|(_, item)| item)
    }

    /// Makes something else of what is at `number`, if it has memory: all that is something has.
    pub(crate) fn change<R>(
        &mut self,
        number: usize,
        change: impl FnOnce(&mut T) -> R,
    ) -> Option<R> {
        let (chunk, number) = self.place(number);
        let chunk = self.chunks.get_mut(chunk)?;
        chunk.change(chunk.find(number).ok()?, change)
    }

    /// As [`Sparse::change`] for each of `numbers`, with what is beside it; cheaper if they ascend.
    pub(crate) fn change_each<A>(
        &mut self,
        numbers: impl Iterator<Item = (usize, A)>,
        mut change: impl FnMut(&mut T, A),
    ) {
        let per_chunk = self.per_chunk;
        // One that does not exist.
        let (mut nr, mut chunk) = (usize::MAX, None);
        for (number, with) in numbers {
            let (nr_of_this, number) = place(number, per_chunk);
            if nr_of_this != nr {
                nr = nr_of_this;
                chunk = self.chunks.get_mut(nr);
            }
            let Some(chunk) = &mut chunk else { continue };
            if let Ok(at) = chunk.find(number) {
                chunk.change(at, |item| change(item, with));
            }
        }
    }

    /// Returns for how many items there has to be [`Room`], so that one can be put at `number`;
    /// [`None`] if there is room.
    pub(crate) fn room_wanted(&self, number: usize) -> Option<usize> {
        let (chunk, number) = self.place(number);
        let chunk = self.chunks.get(chunk)?;
        let nr = chunk.items.len();
        let is_full = chunk.find(number).is_err() && nr == chunk.items.capacity();
        is_full.then(|| (2 * nr).clamp(1, self.per_chunk))
    }

    /// Gives the chunk of `number` more room.
    pub(crate) fn grow(&mut self, number: usize, room: Room<T>) {
        let (chunk, _) = self.place(number);
        if let Some(chunk) = self.chunks.get_mut(chunk) {
            chunk.grow(room);
        }
    }

    /// Puts `item` at `number`.
    ///
    /// # Errors
    ///
    /// Gives it back if something is there, there can be nothing, or [`Sparse::room_wanted`].
    pub(crate) fn insert(&mut self, number: usize, item: T) -> Result<(), T> {
        let (nr, in_chunk) = self.place(number);
        let chunk = match self.chunks.get_mut(nr) {
            Some(chunk) if number < self.len => chunk,
            _ => return Err(item),
        };
        match chunk.find(in_chunk) {
            Err(at) => chunk.insert(at, in_chunk, item),
            Ok(at) if chunk.items.get(at).is_some_and(|(_, old)| old.is_nothing()) => {
                chunk.change(at, |old| *old = item);
                Ok(())
            }
            Ok(_) => Err(item),
        }
    }

    /// Returns the first number from `from` on whose item `is_wanted`.
    pub(crate) fn first_from(&self, from: usize, is_wanted: impl Fn(&T) -> bool) -> Option<usize> {
        let (first, number) = self.place(from);
        let behind = self.chunks.get(first..)?;
        for (nr, chunk) in behind.iter().enumerate() {
            let skipped = match nr {
                0 => chunk.items.partition_point(|(n, _)| *n < number),
                _ => 0,
            };
            let mut rest = chunk.items.iter().skip(skipped);
            if let Some((number, _)) = rest.find(|(_, item)| is_wanted(item)) {
                return Some((first + nr) * self.per_chunk + number);
            }
        }
        None
    }

    /// Returns whether any item is used in the chunks that numbers `first` to `last` are in.
    pub(crate) fn is_used(&self, first: usize, last: usize) -> bool {
        let (first, last) = (self.place(first).0, self.place(last).0);
        let mut chunks = self.chunks.iter().take(last + 1).skip(first);
        chunks.any(|chunk| chunk.nr_used > 0)
    }
}
