// SPDX-License-Identifier: GPL-2.0

//! Documentation rots by names: every path, every function, and whatever else of ours it names has to
//! exist. And by numbers: those that are told twice have to be the same.

use std::{
    fs,
    path::{Path, PathBuf},
};

#[path = "documentation/names.rs"]
mod names;
#[path = "documentation/numbers.rs"]
mod numbers;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../srctree")
}

/// All pages of ours: the README is not there in a kernel tree.
fn pages() -> Vec<(String, String)> {
    let folder = fs::read_dir(top().join("Documentation/mm")).expect("is there");
    let names = folder.flatten().map(|entry| entry.file_name());
    let ours = names.filter_map(|name| {
        let name = name.into_string().ok()?;
        let is_ours = name.starts_with("tlb_") && name.ends_with(".rst");
        is_ours.then(|| format!("Documentation/mm/{name}"))
    });
    ours.chain(["README.md".to_owned()])
        .filter_map(|page| Some((page.clone(), fs::read_to_string(top().join(page)).ok()?)))
        .collect()
}

/// What stands between backquotes, one or two.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .chain(text.split("``").skip(1).step_by(2))
        .collect()
}

fn our_folders() -> [&'static str; 10] {
    [
        "rust/",
        "mm/rust_tlb",
        "mm/mremap_",
        "include/",
        "samples/",
        "selftests/",
        "scripts/",
        "patches/",
        "series/",
        "Documentation/",
    ]
}

#[test]
fn every_path_that_is_named_exists() {
    let mut checked = 0;
    for (page, text) in pages() {
        for path in quoted(&text) {
            let ours = our_folders().iter().any(|folder| path.starts_with(folder));
            if !ours || path.contains(char::is_whitespace) || path.contains(['*', '<', '{']) {
                continue;
            }
            assert!(top().join(path).exists(), "{page} names {path}");
            checked += 1;
        }
    }
    assert!(checked >= 5, "found {checked} paths");
}

fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("is there").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if name == "target" || name == "srctree" {
            continue;
        }
        match path.is_dir() {
            true => walk(&path, into),
            false => into.push(path),
        }
    }
}

/// In a kernel tree, its own as well.
fn our_files() -> Vec<PathBuf> {
    let folders = [
        "Documentation/mm",
        "arch/x86/include/asm",
        "arch/x86/mm",
        "drivers/android/binder",
        "include",
        "mm",
        "patches",
        "rust",
        "samples",
        "scripts",
        "selftests",
        "tools/testing",
    ];
    let mut files = Vec::new();
    for folder in folders.map(|folder| top().join(folder)) {
        if folder.exists() {
            walk(&folder, &mut files);
        }
    }
    files
}

/// The texts of all files of ours with one of these endings, but for the list of what is not ours.
fn sources(endings: &[&str]) -> String {
    let is_source = |path: &&PathBuf| {
        let ending = path.extension().unwrap_or_default();
        endings.iter().any(|e| ending == *e) && !path.ends_with("documentation/names.rs")
    };
    let files = our_files();
    let texts = files.iter().filter(is_source).map(fs::read_to_string);
    texts.flatten().collect()
}

/// Functions of the kernel that the pages name. Any other name is ours, and has to exist.
const KERNEL_FUNCTIONS: &[&str] = &[
    "PageHWPoison",
    "__mmdrop",
    "__split_huge_pmd_locked",
    "__split_huge_pud_locked",
    "arch_tlbbatch_add_pending",
    "arch_tlbbatch_flush",
    "atomic64_inc_return",
    "binder_alloc_free_page",
    "binder_free_page",
    "binder_install_single_page",
    "binder_shrink_scan",
    "clean_record_shared_mapping_range",
    "collect_procs",
    "commit_merge",
    "copy_huge_pmd",
    "dup_mmap",
    "exec",
    "exit_mmap",
    "flush_tlb_batched_pending",
    "flush_tlb_func",
    "flush_tlb_mm",
    "flush_tlb_mm_range",
    "flush_tlb_range",
    "folio_mkclean",
    "folio_put_refs",
    "folio_referenced",
    "folio_remove_rmap_ptes",
    "follow_pfnmap_start",
    "ftruncate",
    "get_and_clear_full_ptes",
    "mapping_wrprotect_range",
    "might_sleep",
    "migration_entry_wait",
    "mm_cpumask",
    "mm_dec_nr_ptes",
    "mm_init",
    "mm_note_tlb_flush_batched",
    "mm_tlb_flush_nested",
    "mmu_notifier_arch_invalidate_secondary_tlbs",
    "mmu_notifier_invalidate_range_end",
    "mmu_notifier_invalidate_range_start",
    "move_hugetlb_page_tables",
    "move_ptes",
    "move_run",
    "move_vma",
    "page_vma_mapped_walk",
    "pmd_clear",
    "prep_move_vma",
    "prepare_pte_run",
    "pte_alloc",
    "pte_offset_map_lock",
    "remove_migration_pte",
    "retract_page_tables",
    "sgx_encl_cpumask",
    "sgx_encl_ewb",
    "sgx_reclaim_pages",
    "sgx_reclaimer_block",
    "sgx_reclaimer_write",
    "sgx_zap_enclave_ptes",
    "should_flush_tlb",
    "should_take_rmap_locks",
    "split_page",
    "tlb_free_vmas",
    "try_to_migrate_one",
    "try_to_unmap_flush",
    "try_to_unmap_one",
    "unmap_folio",
    "unmap_ldt_struct",
    "unmap_mapping_range",
    "vma_link",
    "vmf_can_call_fault",
    "vmf_insert_folio_pmd",
    "walk_page_mapping",
    "wp_shared_mapping_range",
    "zap_huge_pmd",
    "zap_huge_pud",
    "zap_pmd_range",
    "zap_pte_table_if_empty",
    "zap_special_vma_range",
    "zap_vma_range",
];

/// Whether `sources` have a function of that name, in Rust or in C.
fn has_function(sources: &str, name: &str) -> bool {
    let starts = sources.match_indices(name).map(|(at, _)| at);
    let is_function = |at: usize| {
        let (before, after) = (&sources[..at], &sources[at + name.len()..]);
        let ends = after.starts_with(['(', '<']);
        // In C, the line starts with the type that it returns, or that is all that is on the one before.
        let mut lines = before.rsplit('\n');
        let type_of = match (lines.next().unwrap_or(""), lines.next().unwrap_or("")) {
            ("", line) if !line.ends_with([';', ',', ' ']) => line,
            (line, _) if line.ends_with([' ', '*']) => line,
            _ => "",
        };
        let is_c = after.starts_with('(') && type_of.starts_with(char::is_alphabetic);
        ends && (before.ends_with("fn ") || is_c)
    };
    starts.into_iter().any(is_function)
}

#[test]
fn every_function_that_is_named_exists() {
    let sources = sources(&["c", "h", "rs"]);
    let mut checked = 0;
    for (page, text) in pages() {
        for call in quoted(&text)
            .into_iter()
            .filter_map(|q| q.strip_suffix("()"))
        {
            let name = match call.rsplit_once("::") {
                Some(("mem", _)) => continue,
                Some((_, method)) => method,
                None => call,
            };
            let is_word = name.chars().all(|c| c.is_alphanumeric() || c == '_');
            if is_word && !KERNEL_FUNCTIONS.contains(&name) {
                assert!(has_function(&sources, name), "{page} names {call}()");
                checked += 1;
            }
        }
    }
    assert!(checked > 10, "found {checked} functions");
}

/// The control.
#[test]
fn a_name_that_is_gone_is_noticed() {
    let sources = "pub fn walk<T>(x: T) {}\nvoid tlb_batch_zap(int x)\nstatic int *given(void)\n";
    for name in ["walk", "tlb_batch_zap", "given"] {
        assert!(has_function(sources, name), "{name}");
    }
    for name in ["clear_run", "alk", "zap", "tlb_batch", "x"] {
        assert!(!has_function(sources, name), "{name}");
    }
}
