// SPDX-License-Identifier: GPL-2.0

//! The real policies and the real batch, on a model of the machine.

mod machine;
mod properties;
mod world;
