// SPDX-License-Identifier: GPL-2.0

//! What all who work with the driver need: a binderfs and a service, and the shrinkers.

use anyhow::Result;

use super::clients::{Client, Clients};
use super::service::Service;
use super::Binderfs;
use crate::barrier::Wait;
use crate::reclaim::Shrinkers;
use crate::workers::Shape;

pub struct Ground {
    pub binderfs: Binderfs,
    _service: Service,
    pub shrinkers: Shrinkers,
}

impl Ground {
    /// `None` if the kernel has no binder.
    pub fn new() -> Result<Option<Self>> {
        let Some(binderfs) = Binderfs::mount()? else {
            return Ok(None);
        };
        Ok(Some(Self {
            _service: Service::start(&binderfs.device())?,
            shrinkers: Shrinkers::open()?,
            binderfs,
        }))
    }

    /// Clients of the service: see [`Clients::start`].
    pub fn clients<F>(&self, shape: Shape, wait: Wait, body: F) -> Result<Clients>
    where
        F: Fn(&Client<'_>) -> Result<()> + Sync,
    {
        Clients::start(&self.binderfs.device(), shape, wait, body)
    }
}
