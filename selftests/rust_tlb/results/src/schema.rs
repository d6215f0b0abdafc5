// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The committed schema is what the types give.
//!
//! `RENEW_SCHEMA=1 cargo test -p rust-tlb-results` writes it.

use std::env;
use std::fs;

use schemars::generate::SchemaSettings;
use schemars::{json_schema, Schema, SchemaGenerator};

use crate::written::Results;
use crate::{axes, strategies};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench.schema.json");

/// One of the axes.
pub fn any_axis(_: &mut SchemaGenerator) -> Schema {
    let meanings = axes::ALL.map(|axis| format!("{}: {}", axis.name, axis.meaning));
    json_schema!({
        "enum": axes::ALL.map(|axis| axis.name),
        "description": format!("What changes from one such row to the next; {}", meanings.join("; ")),
    })
}

/// One of the strategies.
pub fn any_strategy(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "enum": strategies::ALL.map(|strategy| strategy.name),
        "description": "How the pages are taken back",
    })
}

/// Of what is written: a field that may be null is there.
fn schema() -> String {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let schema = settings.into_generator().into_root_schema_for::<Results>();
    serde_json::to_string_pretty(&schema).expect("a schema is JSON") + "\n"
}

#[test]
fn the_committed_schema_is_what_the_types_give() {
    let schema = schema();
    if env::var_os("RENEW_SCHEMA").is_some() {
        fs::write(PATH, &schema).expect("the schema can be written");
    }
    let committed = fs::read_to_string(PATH).expect("the schema is there");
    // Not `assert_eq!()`, which would print both.
    let differs = committed.lines().zip(schema.lines()).find(|(a, b)| a != b);
    assert_eq!(differs, None, "RENEW_SCHEMA=1 writes it anew");
    assert_eq!(
        committed.len(),
        schema.len(),
        "RENEW_SCHEMA=1 writes it anew"
    );
}
