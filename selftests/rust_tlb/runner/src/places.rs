// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Where things are: the checkout, the built kernels, the built binaries, the tools.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

/// Folders that `scripts/runner.sh` tells us through the environment.
pub struct Places {
    /// Top of the checkout.
    pub top: PathBuf,
    /// Logs and results that the user reads.
    pub out: PathBuf,
    /// What is kept between checkouts.
    pub cache: PathBuf,
    /// Release binaries of this workspace.
    pub bin: PathBuf,
}

/// A built kernel.
#[derive(Clone)]
pub struct Kernel {
    /// `bench`, `test`, or another of `scripts/config/`.
    pub config: String,
    /// Its build folder, which other checkouts build in, too.
    pub build: PathBuf,
    /// What boots, as this checkout built it.
    pub boot: PathBuf,
}

impl Places {
    /// Reads them from the environment.
    ///
    /// # Errors
    ///
    /// If the runner was not started through `make` or `scripts/runner.sh`.
    pub fn find() -> Result<Self> {
        let top = variable("TOP")?;
        Ok(Self {
            out: variable("OUT")?,
            cache: variable("RUST_TLB_CACHE")?,
            bin: variable("CARGO_TARGET_DIR")?.join("release"),
            top,
        })
    }

    /// The kernel that was last built in this checkout with `config`.
    pub fn kernel(&self, config: &str) -> Result<Kernel> {
        let build = fs::canonicalize(self.out.join(format!("kernel-{config}")))
            .with_context(|| format!("there is no kernel yet: make kernel CONFIG={config}"))?;
        let kernel = Kernel {
            config: config.into(),
            build,
            boot: self.out.join(format!("boot-{config}")),
        };
        if !kernel.image().exists() {
            bail!("the {config} kernel is not built: make kernel CONFIG={config}");
        }
        Ok(kernel)
    }

    /// Top of the cargo workspace.
    pub fn workspace(&self) -> PathBuf {
        self.top.join("selftests/rust_tlb")
    }
}

impl Kernel {
    /// What the machine boots.
    pub fn image(&self) -> PathBuf {
        self.boot.join("bzImage")
    }

    /// Our module.
    pub fn module(&self) -> PathBuf {
        self.boot.join("rust_tlb.ko")
    }

    /// What `uname -r` says in it.
    pub fn release(&self) -> Result<String> {
        read_trimmed(&self.boot.join("kernel.release"))
    }
}

/// Contents of a small file, without the space around it.
pub fn read_trimmed(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.trim().into())
}

fn variable(name: &str) -> Result<PathBuf> {
    env::var_os(name)
        .map(PathBuf::from)
        .with_context(|| format!("{name} is not set: start this through scripts/runner.sh"))
}
