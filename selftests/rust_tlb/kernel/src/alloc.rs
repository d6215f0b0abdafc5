// SPDX-License-Identifier: GPL-2.0

//! As much of `rust/kernel/alloc.rs` as the pure files use, over the standard library.

use std::{
    ops::{Deref, DerefMut},
    pin::Pin,
};

/// How to allocate: of no account on the host.
#[derive(Clone, Copy, Debug)]
pub struct Flags;

/// The only flags there are.
pub const GFP_KERNEL: Flags = Flags;

/// As the kernel's module of that name.
pub mod flags {
    pub use super::GFP_KERNEL;
}

/// No memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocError;

/// As the kernel's `KBox`.
pub struct KBox<T: ?Sized>(Box<T>);

/// A box of the standard library turns into one of a trait object by itself.
impl<T: ?Sized> From<Box<T>> for KBox<T> {
    fn from(inner: Box<T>) -> Self {
        Self(inner)
    }
}

impl<T> KBox<T> {
    /// Never fails on the host.
    pub fn new(value: T, _flags: Flags) -> Result<Self, AllocError> {
        Ok(Self(Box::new(value)))
    }

    /// Never fails on the host.
    pub fn pin(value: T, flags: Flags) -> Result<Pin<Self>, AllocError>
    where
        T: Unpin,
    {
        Self::new(value, flags).map(Pin::new)
    }
}

impl<T: ?Sized> Deref for KBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> DerefMut for KBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// Gives back what there was no room for.
pub struct PushError<T>(pub T);

/// As the kernel's `KVVec`: grows only when it is asked to.
pub struct KVVec<T> {
    items: Vec<T>,
    capacity: usize,
}

impl<T> Default for KVVec<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            capacity: 0,
        }
    }
}

impl<T> KVVec<T> {
    /// Without any memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Never fails on the host.
    pub fn with_capacity(capacity: usize, _flags: Flags) -> Result<Self, AllocError> {
        Ok(Self {
            items: Vec::with_capacity(capacity),
            capacity,
        })
    }

    /// Makes room for `additional` more.
    pub fn reserve(&mut self, additional: usize, _flags: Flags) -> Result<(), AllocError> {
        self.capacity = self.capacity.max(self.items.len() + additional);
        Ok(())
    }

    /// Returns how many items there is room for, in all.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Appends `item` if there is room.
    pub fn push_within_capacity(&mut self, item: T) -> Result<(), PushError<T>> {
        if self.items.len() == self.capacity {
            return Err(PushError(item));
        }
        self.items.push(item);
        Ok(())
    }

    /// Appends `item`. Never fails on the host.
    pub fn push(&mut self, item: T, flags: Flags) -> Result<(), AllocError> {
        self.reserve(1, flags)?;
        self.items.push(item);
        Ok(())
    }

    /// Takes the last item out.
    pub fn pop(&mut self) -> Option<T> {
        self.items.pop()
    }

    /// Drops all items but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.items.truncate(len);
    }

    /// Drops all items.
    pub fn clear(&mut self) {
        self.items.clear();
    }

    /// Takes all items out.
    pub fn drain_all(&mut self) -> impl Iterator<Item = T> + '_ {
        self.items.drain(..)
    }
}

impl<T> Deref for KVVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items
    }
}

impl<T> DerefMut for KVVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items
    }
}
