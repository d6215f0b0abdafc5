// SPDX-License-Identifier: GPL-2.0

//! The layers of the design, checked in the sources: who may know what.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::{quote, ToTokens};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};
use syn::{
    visit::{self, Visit},
    Attribute, Block, GenericParam, Generics, ImplItemFn, ItemFn, ItemImpl, ItemMacro, ItemMod,
    ItemTrait, Signature, TraitItemFn, TypeImplTrait,
};

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../srctree")
}

/// The Rust files of a folder, with their text without comments.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found: Vec<_> = fs::read_dir(top().join(folder))
        .expect("the folder is there")
        .map(|entry| entry.expect("can be read").path())
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| (name(&path), code(&path)))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{folder} has no Rust file");
    found
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("can be read");
    let lines = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""));
    lines.collect::<Vec<_>>().join("\n")
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|w| w == word)
}

/// Files of `rust/kernel/mm/tlb/` that need the kernel; all others are pure.
const SAFE_API: [&str; 10] = [
    "cpus.rs",
    "gather.rs",
    "locks.rs",
    "mappings.rs",
    "moving.rs",
    "ring_entry.rs",
    "rings.rs",
    "settled.rs",
    "tables.rs",
    "trace.rs",
];

/// Files of `rust/kernel/mm/` that do not.
const PURE: [&str; 7] = [
    "parts.rs",
    "place.rs",
    "pte.rs",
    "range.rs",
    "run.rs",
    "stale.rs",
    "window.rs",
];

#[test]
fn protocol_files_are_pure() {
    let mut protocol = sources("rust/kernel/mm/tlb");
    protocol.retain(|(file, _)| !SAFE_API.contains(&file.as_str()));
    let mut below = sources("rust/kernel/mm");
    below.retain(|(file, _)| PURE.contains(&file.as_str()));
    assert_eq!(below.len(), PURE.len());
    for (file, text) in protocol.into_iter().chain(below) {
        assert!(
            text.contains("forbid(unsafe_code)"),
            "{file} does not forbid unsafe code"
        );
        for word in ["unsafe", "bindings", "mechanism"] {
            assert!(!has_word(&text, word), "{file} says {word}");
        }
    }
}

/// The functions that our headers declare.
fn functions_of_c() -> BTreeSet<String> {
    let headers = fs::read_dir(top().join("include/linux")).expect("the folder is there");
    let ours = |name: &str| name.starts_with("tlb_") || name == "flush_ring.h";
    let paths = headers.map(|entry| entry.expect("can be read").path());
    let texts = paths
        .filter(|path| ours(&name(path)))
        .map(|path| code(&path));
    let names = |text: String| -> Vec<String> {
        let before = text.split('(').map(str::trim_end);
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        before
            .map(|text| text.rsplit(|c| !is_name(c)).next().unwrap_or("").into())
            .filter(|name: &String| name.starts_with("tlb_"))
            .collect()
    };
    let found: BTreeSet<String> = texts.flat_map(names).collect();
    assert!(found.contains("tlb_batch_pte_lock") && found.contains("tlb_move_pin"));
    found
}

/// Whether a function of C is called, or handed on: one of `ours`, another of the bindings, as in
/// `bindings::name(`, or an event. Also by a macro.
fn calls_c(code: TokenStream, ours: &BTreeSet<String>) -> bool {
    let code: Vec<_> = code.into_iter().collect();
    let is_word =
        |at: usize, word: &str| matches!(code.get(at), Some(TokenTree::Ident(i)) if i == word);
    let is_colon =
        |at: usize| matches!(code.get(at), Some(TokenTree::Punct(p)) if p.as_char() == ':');
    (0..code.len()).any(|at| {
        let is_called = match code.get(at + 1) {
            Some(TokenTree::Group(group)) => group.delimiter() == Delimiter::Parenthesis,
            _ => false,
        };
        match &code[at] {
            TokenTree::Group(group) => calls_c(group.stream(), ours),
            TokenTree::Ident(name) => {
                let name = name.to_string();
                let is_of_bindings =
                    at >= 3 && is_word(at - 3, "bindings") && is_colon(at - 2) && is_colon(at - 1);
                let is_other = is_of_bindings || name.starts_with("rust_tlb_");
                ours.contains(&name) || is_other && is_called
            }
            _ => false,
        }
    })
}

/// All folders of the abstractions.
fn folders(of: &str) -> Vec<String> {
    let entries = fs::read_dir(top().join(of)).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("can be read").path());
    let below = paths.filter(|path| path.is_dir());
    let mut found: Vec<String> = below
        .flat_map(|path| folders(&format!("{of}/{}", name(&path))))
        .collect();
    found.push(of.into());
    found.sort();
    found
}

/// All files of the abstractions that call C, but for what C calls: that is in the kernel, and never in
/// a module.
fn callers_of_c() -> Vec<(String, String)> {
    // In a kernel tree there are others, which are not ours.
    let others = ["ring_entry.rs", "virt.rs", "mmput_async.rs"];
    let folders = folders("rust/kernel/mm");
    let files = folders.iter().flat_map(|folder| sources(folder));
    let ours = functions_of_c();
    let calls_it = |text: &str| {
        let code = syn::parse_file(text).expect("is Rust");
        functions(&code, &ours)
            .iter()
            .any(|function| function.calls_c)
    };
    files
        .filter(|(file, text)| !others.contains(&file.as_str()) && calls_it(text))
        .collect()
}

/// Each of them has what a call of C relies on: a lock that is held, a reference that is owned.
#[test]
fn few_files_call_the_kernel() {
    let files: Vec<String> = callers_of_c().into_iter().map(|(file, _)| file).collect();
    let expected = [
        "deadline.rs",
        "exclusive.rs",
        "fault.rs",
        "folio.rs",
        "mechanism.rs",
        "page_table.rs",
        "rmap.rs",
        "shrinker.rs",
        "vm_ops.rs",
        "trace.rs",
        "cpus.rs",
        "gather.rs",
        "mappings.rs",
        "moving.rs",
        "rings.rs",
        "tables.rs",
    ];
    assert_eq!(files, expected);
}

/// A function, or a macro, that is built when the kernel is not tested.
#[derive(Debug, PartialEq, Eq)]
struct Function {
    name: String,
    calls_c: bool,
    is_never_inlined: bool,
    /// Or in a block that is, or a trait's: whoever uses it has it built again.
    is_generic: bool,
}

/// Goes through a file.
struct Functions<'o> {
    ours: &'o BTreeSet<String>,
    is_in_generic: bool,
    found: Vec<Function>,
}

fn functions(file: &syn::File, ours: &BTreeSet<String>) -> Vec<Function> {
    let mut functions = Functions {
        ours,
        is_in_generic: false,
        found: Vec::new(),
    };
    functions.visit_file(file);
    functions.found
}

impl Functions<'_> {
    fn within(&mut self, is_generic: bool, visit: impl FnOnce(&mut Self)) {
        let before = self.is_in_generic;
        self.is_in_generic |= is_generic;
        visit(self);
        self.is_in_generic = before;
    }

    fn add(&mut self, attributes: &[Attribute], signature: &Signature, body: &Block) {
        let never = quote!(#[inline(never)]).to_string();
        let is_never = |one: &Attribute| one.to_token_stream().to_string() == never;
        let mut types = HasImpl(false);
        types.visit_signature(signature);
        self.found.push(Function {
            name: signature.ident.to_string(),
            calls_c: calls_c(body.to_token_stream(), self.ours),
            is_never_inlined: attributes.iter().any(is_never),
            is_generic: self.is_in_generic || has_type_parameter(&signature.generics) || types.0,
        });
    }
}

impl<'f> Visit<'f> for Functions<'_> {
    fn visit_item_mod(&mut self, module: &'f ItemMod) {
        let is_test =
            |one: &Attribute| one.path().segments.iter().any(|s| s.ident == "kunit_tests");
        if !module.attrs.iter().any(is_test) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_impl(&mut self, block: &'f ItemImpl) {
        self.within(has_type_parameter(&block.generics), |functions| {
            visit::visit_item_impl(functions, block);
        });
    }

    fn visit_item_trait(&mut self, item: &'f ItemTrait) {
        self.within(true, |functions| visit::visit_item_trait(functions, item));
    }

    fn visit_item_fn(&mut self, function: &'f ItemFn) {
        self.add(&function.attrs, &function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'f ImplItemFn) {
        self.add(&function.attrs, &function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'f TraitItemFn) {
        if let Some(body) = &function.default {
            self.add(&function.attrs, &function.sig, body);
        }
        visit::visit_trait_item_fn(self, function);
    }

    fn visit_item_macro(&mut self, item: &'f ItemMacro) {
        // Declares events, and calls none.
        if item.mac.path.is_ident("declare_trace") {
            return;
        }
        self.found.push(Function {
            name: format!("{}!", item.mac.path.to_token_stream()),
            calls_c: calls_c(item.mac.tokens.clone(), self.ours),
            is_never_inlined: false,
            is_generic: true,
        });
    }
}

/// Whether a signature says `impl Trait`.
struct HasImpl(bool);

impl<'f> Visit<'f> for HasImpl {
    fn visit_type_impl_trait(&mut self, _: &'f TypeImplTrait) {
        self.0 = true;
    }
}

/// Whether there is a type among them, or a constant, and not only lifetimes.
fn has_type_parameter(generics: &Generics) -> bool {
    let is_lifetime = |one: &GenericParam| matches!(one, GenericParam::Lifetime(_));
    !generics.params.iter().all(is_lifetime)
}

/// Inlined or generic code would be compiled into the module, and not find what is not exported.
#[test]
fn what_calls_the_kernel_stays_in_it() {
    let mut nr = 0;
    let ours = functions_of_c();
    for (file, text) in callers_of_c() {
        for renamed in [
            "bindings as",
            "use crate::bindings::",
            "use bindings::",
            "bindings::{",
        ] {
            assert!(!text.contains(renamed), "{file}: {renamed}");
        }
        let code = syn::parse_file(&text).expect("is Rust");
        for function in functions(&code, &ours).iter().filter(|f| f.calls_c) {
            assert!(function.is_never_inlined, "inlined, {file}: {function:?}");
            assert!(!function.is_generic, "generic, {file}: {function:?}");
            nr += 1;
        }
    }
    assert!(nr > 60, "found {nr} functions");
}

#[test]
fn functions_that_call_c_are_recognised() {
    let ours = BTreeSet::from(["tlb_x".to_string()]);
    let file: syn::File = syn::parse_quote! {
        impl<'a> S<'a> {
            #[inline(never)]
            fn a<'b>(&'b self) { unsafe { bindings::f(0) } }
            #[inline]
            fn b<T>(t: T) { T::each(tlb_x) }
            fn c() -> impl Iterator { bindings::CONSTANT }
        }
        impl<T> S<T> { fn d() { assert!(unsafe { rust_tlb_event(bindings::CONSTANT) }) } }
        trait E { fn e() { tlb_x() } fn none(); }
        mod inner { #[inline(never)] fn f<const N: usize>() { tlb_x() } }
        #[macros::kunit_tests(rust_tlb_s)]
        mod tests { fn g() { tlb_x() } }
        macro_rules! h { ($($x:tt)*) => { tlb_x($($x)*) } }
        declare_trace! { unsafe fn rust_tlb_event(x: u8); }
        fn i() { x(bindings::kind::default()) }
    };
    let found: Vec<_> = functions(&file, &ours)
        .into_iter()
        .map(|f| (f.name, [f.calls_c, f.is_never_inlined, f.is_generic]))
        .collect();
    let expected = [
        ("a", [true, true, false]),
        ("b", [true, false, true]),
        ("c", [false, false, true]),
        ("d", [true, false, true]),
        ("e", [true, false, true]),
        ("f", [true, true, true]),
        ("macro_rules!", [true, false, true]),
        ("i", [false, false, false]),
    ];
    let expected = expected.map(|(name, is)| (name.to_string(), is));
    assert_eq!(found, expected);
}

/// A global lock has to be initialised, and `global_lock!` leaves no other way to say when.
fn without_global_locks(text: &str) -> String {
    text.replace("unsafe(uninit) static", "static")
        .replace("unsafe { open_files::OPEN_FILES.init() };", "")
        .replace("unsafe { pressure::SHRINKER.init() };", "")
}

#[test]
fn the_device_uses_the_safe_api_only() {
    for (file, text) in sources("samples/rust/rust_tlb") {
        let text = without_global_locks(&text);
        for word in ["unsafe", "bindings", "asm"] {
            assert!(!has_word(&text, word), "{file} says {word}");
        }
    }
}
