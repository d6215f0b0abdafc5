// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading the module.

use std::env;
use std::ffi::{CStr, CString};
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{ensure, Context, Result};
use rustix::io::Errno;
use rustix::system::{delete_module, init_module};

/// Environment variable with the path of the module's file.
pub const PATH_VARIABLE: &str = "RUST_TLB_KO";

/// What the kernel calls our module.
pub const NAME: &CStr = c"rust_tlb";

/// Where the kernel shows a loaded module.
const SYSFS: &str = "/sys/module/rust_tlb";

/// Path of the module's file, if the caller of the test has given it.
pub fn path() -> Option<String> {
    env::var(PATH_VARIABLE).ok()
}

/// The file's contents: read once, since the file may be on a slow file system.
fn image() -> Result<&'static [u8]> {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    if let Some(image) = IMAGE.get() {
        return Ok(image);
    }
    let path = path().context("no module file is known")?;
    let image = fs::read(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(IMAGE.get_or_init(|| image))
}

/// Whether the module is loaded.
pub fn is_loaded() -> bool {
    fs::exists(SYSFS).unwrap_or(false)
}

/// Loads the module with `parameters`, as `insmod` takes them, and returns the kernel's answer.
pub fn load(parameters: &str) -> Result<Result<(), Errno>> {
    let parameters = CString::new(parameters)?;
    Ok(init_module(image()?, &parameters))
}

/// Unloads a module if nobody uses it, and returns the kernel's answer.
pub fn unload(name: &CStr) -> Result<(), Errno> {
    delete_module(name, libc::O_NONBLOCK)
}

/// Another module, whose file is beside ours, loaded as long as it is in scope.
pub struct Other(&'static CStr);

impl Other {
    /// Loads it; [`None`] if there is no such file.
    pub fn load(name: &'static CStr) -> Result<Option<Self>> {
        let ours = path().context("no module file is known")?;
        let file = format!("{}.ko", name.to_str()?);
        let Ok(image) = fs::read(Path::new(&ours).with_file_name(&file)) else {
            return Ok(None);
        };
        init_module(&image, c"").context(file)?;
        Ok(Some(Self(name)))
    }

    /// What the kernel calls it.
    pub fn name(&self) -> &'static CStr {
        self.0
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        if let Err(error) = unload(self.0) {
            println!("# {:?} stays: {error}", self.0);
        }
    }
}

/// Takes the module out for as long as it is in scope, and loads it as it was at the end.
pub struct Unloaded(());

impl Unloaded {
    /// Unloads the module.
    pub fn new() -> Result<Self> {
        image()?;
        if is_loaded() {
            unload(NAME).context("rmmod")?;
        }
        ensure!(!is_loaded(), "the module is still there");
        Ok(Self(()))
    }
}

impl Drop for Unloaded {
    fn drop(&mut self) {
        // Fails where the test has unloaded it itself.
        let _ = unload(NAME);
        if let Err(error) = load("").and_then(|answer| Ok(answer?)) {
            println!("# the module cannot be loaded again: {error:#}");
        }
    }
}
