// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The shell scripts that the guest runs. Its root file system is the host's, so that every path
//! of the host is good there.

use std::path::Path;

/// Line that a guest writes before a suite starts: this and its name.
pub const SUITE_STARTS: &str = "# suite starts: ";
/// Line that a guest writes after a suite: this, its exit status, its seconds and its name.
pub const SUITE_ENDS: &str = "# suite ends: ";

/// What a script starts with: the host's own folder and programs.
pub fn prologue(folder: &Path, path: &str) -> String {
    let folder = quote(&folder.display().to_string());
    format!("cd {folder} || exit 96\nexport PATH={}\n", quote(path))
}

/// Loads the module, if one is given, and becomes `command`.
pub fn command_script(module: Option<&Path>, command: &[String]) -> String {
    let words: Vec<String> = command.iter().map(|word| quote(word)).collect();
    format!("{}exec {}\n", load(module), words.join(" "))
}

/// Loads the module and becomes an interactive shell.
pub fn shell_script(module: &Path) -> String {
    format!("{}exec bash -i\n", load(Some(module)))
}

/// Loads the module and runs one suite's command after the other, each for at most `limit` seconds.
pub fn suites_script(module: &Path, suites: &[(String, Vec<String>)], limit: u64) -> String {
    let mut script = load(Some(module));
    // For the suites that load and unload it themselves.
    script += &format!(
        "export RUST_TLB_KO={}\n",
        quote(&module.display().to_string())
    );
    for (suite, command) in suites {
        let words: Vec<String> = command.iter().map(|word| quote(word)).collect();
        let command = words.join(" ");
        script += &format!(
            "echo '{SUITE_STARTS}{suite}'\n\
             SECONDS=0\n\
             timeout -k 5 {limit} {command} </dev/null\n\
             echo \"{SUITE_ENDS}$? $SECONDS {suite}\"\n"
        );
    }
    script
}

/// What the bench needs where memory is little: more than two thirds of 256 MiB, in pages, for two
/// threads.
#[cfg(feature = "bench")]
pub const PAGES_PER_DEVICE: u32 = 32768;
/// What it needs otherwise: a gigabyte, one page more, and 64 behind it.
#[cfg(feature = "bench")]
pub const PAGES_PER_LARGE_DEVICE: u32 = (1 << 18) + 1024;

/// Loads the module, prepares, and runs `command` with one list of further words after the other.
#[cfg(feature = "bench")]
pub fn bench_script(
    module: &Path,
    pages_per_device: u32,
    prepare: &str,
    command: &[String],
    endings: &[Vec<&str>],
) -> String {
    let mut script = format!(
        "export RUST_TLB_KO={0}\n\
         insmod {0} pages_per_device={pages_per_device} max_list={pages_per_device} || exit 97\n\
         {prepare} || exit 98\n",
        quote(&module.display().to_string())
    );
    for ending in endings {
        let words = command
            .iter()
            .map(String::as_str)
            .chain(ending.iter().copied());
        let words: Vec<String> = words.map(quote).collect();
        script += &format!("{} || exit\n", words.join(" "));
    }
    script
}

/// Loads the module, if one is given.
pub fn load(module: Option<&Path>) -> String {
    match module {
        Some(path) => format!("insmod {} || exit 97\n", quote(&path.display().to_string())),
        None => String::new(),
    }
}

/// One word to the shell, whatever is in it.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_words() {
        let command = ["echo".into(), "it's $HOME".into()];
        assert_eq!(
            command_script(None, &command),
            "exec 'echo' 'it'\\''s $HOME'\n"
        );
    }
}
