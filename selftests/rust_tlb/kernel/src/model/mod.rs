// SPDX-License-Identifier: GPL-2.0

//! The real walk, the real policies and the real batch, on a model of the machine.

mod access;
mod events;
mod folios;
mod ids;
mod interleavings;
mod leaves;
mod lost_writes;
mod machine;
mod mappings;
mod memory;
mod moves;
mod page_table;
mod policies;
mod properties;
mod scopes;
mod tables;
mod taken_tables;
mod threads;
mod world;
mod write_back;
