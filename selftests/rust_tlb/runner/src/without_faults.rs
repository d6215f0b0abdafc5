// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Checks that the project's Rust code builds without a warning where `CONFIG_RUST_TLB_FAULTS` is off,
//! as in every kernel but the one that is tested. The commands are those of the tested kernel's build,
//! without that option.

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

const OPTION: &str = "CONFIG_RUST_TLB_FAULTS";
const CFG: &str = "include/generated/rustc_cfg";
/// In the order in which they are compiled: a crate's object file in the kernel's build, and its name.
const CRATES: [(&str, &str); 2] = [
    ("rust/kernel.o", "kernel"),
    ("samples/rust/rust_tlb/rust_tlb.o", "rust_tlb"),
];
/// Of the checkout: what the crates are made of.
const SOURCES: [&str; 2] = ["rust/kernel", "samples/rust/rust_tlb"];

/// Runs the check, unless this very code has passed it.
pub fn run(kernel: &Kernel, places: &Places, tally: &mut Tally) -> Result<()> {
    let work = kernel.build.join(".rust-tlb-without-faults");
    fs::create_dir_all(&work)?;
    let test = Test::new(Kind::Build, "without_faults", None);
    let passed = work.join("passed");
    let key = checksum(kernel, places)?;
    if fs::read_to_string(&passed).unwrap_or_default() == key {
        tally.record(test, &Outcome::Passed);
        return Ok(());
    }
    let waiting = Waiting::new("building the kernel's Rust code without faults");
    leave_out_option(&kernel.build.join(CFG), &work.join("rustc_cfg"))?;
    let complaint = CRATES
        .iter()
        .find_map(|(object, name)| compile(kernel, &work, object, name).transpose())
        .transpose()?;
    waiting.done();
    let outcome = match complaint {
        None => {
            fs::write(&passed, key)?;
            Outcome::Passed
        }
        Some(complaint) => {
            complaint.lines().take(30).for_each(output::note);
            Outcome::Failed
        }
    };
    tally.record(test, &outcome);
    Ok(())
}

fn leave_out_option(from: &Path, to: &Path) -> Result<()> {
    let all = fs::read_to_string(from).with_context(|| format!("reading {}", from.display()))?;
    let rest: String = all
        .lines()
        .filter(|line| !line.contains(OPTION))
        .flat_map(|line| [line, "\n"])
        .collect();
    if rest.lines().count() == all.lines().count() {
        bail!("the tested kernel does not have {OPTION}");
    }
    Ok(fs::write(to, rest)?)
}

/// Returns what rustc has against it, if anything.
fn compile(kernel: &Kernel, work: &Path, object: &str, name: &str) -> Result<Option<String>> {
    let (folder, file) = object.rsplit_once('/').context("an object has a folder")?;
    let saved = kernel.build.join(format!("{folder}/.{file}.cmd"));
    let saved =
        fs::read_to_string(&saved).with_context(|| format!("reading {}", saved.display()))?;
    let command = elsewhere(&saved, work, name)?;
    let output = Command::new("sh")
        .current_dir(&kernel.build)
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["-c", &command])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((!output.status.success() || said.contains("warning:")).then_some(said))
}

/// The command that kbuild saved, with the other configuration, and with nothing but metadata as its
/// output, in `work`; another crate finds that there.
fn elsewhere(saved: &str, work: &Path, name: &str) -> Result<String> {
    let command = saved
        .lines()
        .next()
        .and_then(|line| line.split_once(" := "))
        .and_then(|(_, commands)| commands.split(" ; ").next())
        .context("kbuild's rustc command is not as expected")?
        .replace("$(pound)", "#");
    let work = work.display();
    let is_output = |word: &&str| word.starts_with("--emit=") || *word == "-o";
    let words: Vec<String> = command
        .split_whitespace()
        .filter(|word| !is_output(word))
        .map(|word| match word.strip_prefix("@./") {
            Some(CFG) => format!("'@{work}/rustc_cfg'"),
            _ => word.into(),
        })
        .collect();
    let words = words.join(" ");
    if !words.contains("rustc_cfg'") {
        bail!("kbuild's rustc command has no {CFG}");
    }
    // A crate that uses another is given that other one by its name.
    let kernel = format!("--extern kernel='{work}/libkernel.rmeta'");
    let words = words.replace("--extern kernel ", &format!("{kernel} "));
    Ok(format!("{words} --emit=metadata='{work}/lib{name}.rmeta'"))
}

fn checksum(kernel: &Kernel, places: &Places) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    hash_file(&kernel.build.join(CFG), &mut hasher)?;
    SOURCES
        .iter()
        .try_for_each(|folder| hash_folder(&places.top.join(folder), &mut hasher))?;
    Ok(format!("{:016x}\n", hasher.finish()))
}

fn hash_folder(folder: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    let mut paths = fs::read_dir(folder)
        .with_context(|| format!("reading {}", folder.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    paths.iter().try_for_each(|path| {
        if path.is_dir() {
            hash_folder(path, hasher)
        } else {
            hash_file(path, hasher)
        }
    })
}

fn hash_file(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    path.hash(hasher);
    fs::read(path)
        .with_context(|| format!("reading {}", path.display()))?
        .hash(hasher);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_saved_command_is_rewritten() {
        let saved = "savedcmd_s/x.o := OBJTREE=/b rustc -Copt-level=2 @./include/generated/rustc_cfg \
            --extern kernel --emit=dep-info=s/.x.o.d --emit=obj=s/x.o --crate-name x s/x.rs ; objtool s/x.o\n\n";
        assert_eq!(
            elsewhere(saved, Path::new("/w"), "x").unwrap(),
            "OBJTREE=/b rustc -Copt-level=2 '@/w/rustc_cfg' --extern kernel='/w/libkernel.rmeta' \
             --crate-name x s/x.rs --emit=metadata='/w/libx.rmeta'"
        );
        assert!(elsewhere("savedcmd := rustc x.rs", Path::new("/w"), "x").is_err());
    }
}
