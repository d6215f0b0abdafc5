// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Checks that Rust and C agree on every structure of the kernel's bindings. The kernel's build
//! leaves bindgen's own layout assertions out, and without them a structure can be laid out wrong
//! unnoticed (`task_struct` is, without `CONFIG_SCHEDSTATS`). So bindgen is run once more, as the
//! build ran it but with assertions, and rustc evaluates them.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::ktap::Outcome;
use crate::output::{self, Waiting};
use crate::places::{Kernel, Places};
use crate::tally::Tally;
use crate::test_list::{Kind, Test};

const BINDINGS: &str = "rust/bindings/bindings_generated.rs";
const SAVED_COMMAND: &str = "rust/bindings/.bindings_generated.rs.cmd";

/// The crate around the bindings: the kernel's C types (`rust/ffi.rs`) and what
/// `rust/bindings/lib.rs` defines by hand.
const CRATE: &str = r#"#![feature(cfi_encoding)]
#![allow(warnings)]
mod ffi {
    pub type c_char = u8;
    pub type c_schar = i8;
    pub type c_uchar = u8;
    pub type c_short = i16;
    pub type c_ushort = u16;
    pub type c_int = i32;
    pub type c_uint = u32;
    pub type c_long = isize;
    pub type c_ulong = usize;
    pub type c_longlong = i64;
    pub type c_ulonglong = u64;
    pub use core::ffi::c_void;
}
type __kernel_size_t = usize;
type __kernel_ssize_t = isize;
type __kernel_ptrdiff_t = isize;
include!("bindings.rs");
"#;

/// Runs the check, unless these very bindings have passed it.
pub fn run(kernel: &Kernel, places: &Places, tally: &mut Tally) -> Result<()> {
    let work = kernel.build.join(".rust-tlb-layout");
    fs::create_dir_all(&work)?;
    let test = Test::new(Kind::Bindings, "layout", None);
    let passed = work.join("passed");
    let key = checksum(kernel)?;
    let known = fs::read_to_string(&passed).unwrap_or_default();
    if known == key {
        tally.record(test, &Outcome::Passed);
        return Ok(());
    }
    let waiting = Waiting::new("checking the layout of the kernel's bindings");
    generate(kernel, &work)?;
    let errors = compile(&work, places)?;
    waiting.done();
    match errors {
        None => {
            fs::write(&passed, key)?;
            tally.record(test, &Outcome::Passed);
        }
        Some(errors) => {
            errors.lines().take(30).for_each(output::note);
            tally.record(test, &Outcome::Failed);
        }
    }
    Ok(())
}

fn checksum(kernel: &Kernel) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    for path in [BINDINGS, SAVED_COMMAND] {
        let path = kernel.build.join(path);
        fs::read(&path)
            .with_context(|| format!("reading {}", path.display()))?
            .hash(&mut hasher);
    }
    Ok(format!("{:016x}\n", hasher.finish()))
}

fn generate(kernel: &Kernel, work: &Path) -> Result<()> {
    let saved = fs::read_to_string(kernel.build.join(SAVED_COMMAND))?;
    let command = with_assertions(&saved, &work.join("bindings.rs"))?;
    let output = Command::new("sh")
        .current_dir(&kernel.build)
        .args(["-c", &command])
        .output()?;
    if !output.status.success() {
        bail!("bindgen: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// The command that kbuild saved, with assertions, and with its output elsewhere. The derives need
/// a crate of the kernel's and have nothing to do with layout.
fn with_assertions(saved: &str, to: &Path) -> Result<String> {
    let command = saved
        .lines()
        .next()
        .and_then(|line| line.split_once(" := "))
        .and_then(|(_, commands)| commands.split_once(" ; sed "))
        .map(|(bindgen, _)| bindgen.replace("$(pound)", "#"))
        .context("kbuild's bindgen command is not as expected")?;
    let mut out = command.replace("--no-layout-tests", "");
    if out == command {
        bail!("the kernel's bindgen command no longer leaves the assertions out: this is not needed any more");
    }
    for kind in ["struct", "union"] {
        out = out.replace(&format!("--with-derive-custom-{kind} .*=MaybeZeroable"), "");
    }
    let dependencies = "-Wp,-MMD,rust/bindings/.bindings_generated.rs.d";
    Ok(out
        .replace(dependencies, "")
        .replace(&format!("-o {BINDINGS}"), &format!("-o '{}'", to.display())))
}

/// Returns what rustc has against it, if anything.
fn compile(work: &Path, places: &Places) -> Result<Option<String>> {
    let root = work.join("lib.rs");
    fs::write(&root, CRATE)?;
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .current_dir(&places.top)
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["--crate-type=rlib", "--edition=2021", "--emit=metadata"])
        .args(["--crate-name=bindings", "--out-dir"])
        .arg(work)
        .arg(&root)
        .output()
        .context("starting rustc")?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((!output.status.success()).then_some(errors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_saved_command_is_rewritten() {
        let saved = "savedcmd_rust/bindings/bindings_generated.rs := bindgen helper.h \
            --x='$(pound)[a]' --no-layout-tests --with-derive-custom-struct .*=MaybeZeroable \
            -o rust/bindings/bindings_generated.rs -- \
            -Wp,-MMD,rust/bindings/.bindings_generated.rs.d -nostdinc ; sed -Ei s/a/b/\n\nsource_x := y\n";
        let command = with_assertions(saved, Path::new("/t/out.rs")).unwrap();
        let words: Vec<&str> = command.split_whitespace().collect();
        assert_eq!(
            words,
            [
                "bindgen",
                "helper.h",
                "--x='#[a]'",
                "-o",
                "'/t/out.rs'",
                "--",
                "-nostdinc"
            ]
        );
        assert!(with_assertions(&saved.replace("--no-layout-tests", ""), Path::new("o")).is_err());
        assert!(with_assertions("nothing", Path::new("o")).is_err());
    }
}
