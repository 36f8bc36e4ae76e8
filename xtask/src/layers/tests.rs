//! The check on small packages in temporary folders.

use super::planted;
use super::rules::{Rules, faults};
use super::tree::{Package, Tree};

const ORDER: &[&str] = &["low", "high", "lib"];

/// The faults of a package with these files.
fn found(files: &[(&str, &str)], rules: &Rules<'_>) -> Vec<String> {
    let (_folder, package) = written(files);
    faults(&Tree::read(&package).unwrap(), rules)
}

/// A package with these files, in a temporary folder.
fn written(files: &[(&str, &str)]) -> (tempfile::TempDir, Package) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let package = Package {
        name: "sample".to_owned(),
        base: folder.path().to_owned(),
        source: folder.path().to_owned(),
        library: Some("sample".to_owned()),
        roots: ["lib.rs", "main.rs"].iter().map(|root| folder.path().join(root)).filter(|root| root.exists()).collect(),
    };
    (folder, package)
}

/// The faults of a crate with the folders `low` (files a and b) and `high` (files c and d), in this order.
fn found_in(a: &str, b: &str, c: &str, d: &str) -> Vec<String> {
    let files = [
        ("lib.rs", "//! A crate.\n#![no_std]\npub mod low;\npub mod high;\npub use high::c::C as Face;"),
        ("low/mod.rs", "//! Low.\npub mod a;\npub mod b;\npub use a::A;"),
        ("high/mod.rs", "pub mod c;\npub mod d;"),
        ("low/a.rs", a),
        ("low/b.rs", b),
        ("high/c.rs", c),
        ("high/d.rs", d),
    ];
    found(&files, &Rules { order: ORDER, levels: Some(4) })
}

const A: &str = "pub struct A;\nimpl A { pub fn carve(&self) {} }";
const B: &str = "use super::A;\npub fn b(a: &A) { a.carve() }";
const C: &str = "use crate::low::{self, A as Other, b::b};\npub struct C;\nimpl C { pub fn climb(&self) { low::b::b(&Other); b(&Other) } }";
const D: &str = "use super::c::*;\nimpl From<C> for D { fn from(_: C) -> D { D } }\npub struct D;";

#[test]
fn a_package_that_keeps_to_the_rules_passes() {
    assert!(found_in(A, B, C, D).is_empty(), "{:?}", found_in(A, B, C, D));
}

#[test]
fn an_upward_import_is_found_however_it_is_written() {
    let expected = "low/b.rs:3: low/b uses high/c, which lies above it";
    for upward in [
        "use crate::high::c::C;",
        "use super::super::high::c;",
        "use crate::high::c::C as Plain;",
        "use crate::{low, high::{c::{self, C}, self}};",
        "use crate::Face;",
        "use crate::*; fn f() -> Face { loop {} }",
        "use crate::high::c::*;",
        "fn f() { crate::high::c::C.run() }",
        "fn f() { println!(\"{}\", [1, crate::Face::SIZE][0]) }",
        "macro_rules! upward { ($x:ty) => { $crate::high::c::C::make::<$x>() }; }",
        "macro_rules! upward { () => { use $crate::high::c::{C}; }; }",
        "fn f() { use crate::high as h; h::c::by_a_macro() }",
        "mod inner { use super::super::super::high::c::C; }",
        "#[cfg(not(loom))] use crate::high::c::C;",
        "#[cfg(any(test, loom))] use crate::high::c::C;",
        "#[derive(Clone)] struct Near(Vec<crate::high::c::C>);",
    ] {
        assert_eq!(found_in(A, &format!("{B}\n{upward}"), C, D), [expected], "{upward}");
    }
}

#[test]
fn imports_for_tests_alone_do_not_count() {
    for test in [
        "#[cfg(test)] use crate::high::c::{C};",
        "#[cfg(test)] mod tests { use crate::high::c::C; }",
        "#[cfg(all(not(loom), test))] fn f() -> Vec<u8> { crate::Face }",
        "#[cfg(test)]\n#[allow(dead_code)]\npub(crate) const F: [C; 2] = if X { crate::Face } else { crate::Face };",
        "struct S<T> { #[cfg(test)] of: Map<crate::Face, crate::Face>, t: T }",
        "fn f() { #[cfg(test)] let x = S { y: 1 }.z(crate::Face); }",
        "#[test] fn f() { crate::Face.climb() }",
        "impl A { }\n#[cfg(test)] impl super::b::Stranger { fn f() { crate::Face } }",
        "// crate::high::c::C\n/// [`crate::Face`]\nfn f() -> &'static str { \"crate::high::c\" }",
    ] {
        assert!(
            found_in(&format!("{A}\n{test}"), B, C, D).is_empty(),
            "{test}: {:?}",
            found_in(&format!("{A}\n{test}"), B, C, D)
        );
    }
}

#[test]
fn two_files_that_import_each_other_by_another_name_are_found() {
    let faults = found_in(&format!("{A}\nuse crate::low::b::b as back;"), B, C, D);
    let circles = [
        "low/a.rs:3: low/a uses low/b, which uses it: low/b → low/a",
        "low/b.rs:1: low/b uses low/a, which uses it: low/a → low/b",
    ];
    assert!(faults.len() == 1 && circles.contains(&faults[0].as_str()), "{faults:?}");
    // Through a re-export of the file's own folder and a module's other name.
    let faults = found_in(A, &format!("{B}\npub struct B;"), C, &format!("{D}\npub struct E;"));
    assert!(faults.is_empty(), "{faults:?}");
    let faults = found_in(A, B, &format!("{C}\nuse super::super::high as house;\nfn f() {{ house::d::D; }}"), D);
    assert!(faults.len() == 1 && faults[0].contains("which uses it: high/"), "{faults:?}");
}

#[test]
fn a_file_that_only_re_exports_is_passed_through_and_one_with_items_is_not() {
    let files = |parent| {
        [("lib.rs", "mod os;"), ("os/mod.rs", parent), ("os/x.rs", "pub struct X;"), ("os/y.rs", "use super::X;")]
    };
    let declares = "mod x;\nmod y;\npub use x::X;\npub use core::ptr::NonNull;\npub use y::*;";
    assert!(found(&files(declares), &Rules::default()).is_empty());
    let has_items = "mod x;\nmod y;\npub use x::X;\npub use y::Y;\npub trait Os {}";
    assert!(found(&files(has_items), &Rules::default()).is_empty());
    let mut files = files(has_items);
    files[3].1 = "use super::Os; pub struct Y; impl Os for Y {}";
    assert_eq!(found(&files, &Rules::default()).len(), 1);
}

#[test]
fn an_impl_away_from_its_type_is_found() {
    for (block, fault) in [
        ("impl crate::low::A { fn more(&self) {} }", "low/b has `impl crate::low::A`, which belongs to low/a"),
        ("impl<T: Fn() -> u8> A { }", "low/b has `impl A`, which belongs to low/a"),
        ("type Alias = super::A; impl Alias {}", "low/b has `impl Alias`, which belongs to low/a"),
        ("unsafe impl Send for A {}", "low/b has `impl Send for A`, which belongs to low/a"),
        ("impl From<u8> for &A {}", "low/b has `impl From for A`, which belongs to low/a"),
        ("macro_rules! m { () => { impl A {} } }", "low/b has `impl A`, which belongs to low/a"),
        ("impl PartialEq<A> for [u8] {}", "low/b has `impl PartialEq for u8`, which belongs to low/a"),
    ] {
        assert_eq!(found_in(A, &format!("{B}\n{block}"), C, D), [format!("low/b.rs:3: {fault}")]);
    }
    for block in [
        "struct Own; impl Own {} impl From<A> for Own {}",
        "trait Own {} impl Own for A {} impl<T> Own for T {}",
        "struct Own; impl From<Own> for String {} unsafe impl Send for Option<Own> {}",
        "fn f(x: impl Fn(A) -> A) -> impl Into<A> { x }",
    ] {
        assert!(found_in(A, &format!("{B}\n{block}"), C, D).is_empty(), "{block}");
    }
}

#[test]
fn a_call_of_a_higher_file_s_method_is_found_where_one_file_alone_has_it() {
    let expected = ["low/b.rs:3: low/b uses high/c, which lies above it (its method `climb`)"];
    for call in [
        "fn f(x: &X) { x.climb() }",
        "fn f() { m!(x.climb::<u8>()) }",
        "fn f<T: X>() { <T as X>::climb(&x); }",
        "fn f() { S::climb() }",
    ] {
        assert_eq!(found_in(A, &format!("{B}\n{call}"), C, D), expected, "{call}");
    }
    for other in [
        "fn f(x: &X) -> u8 { x.climb }",
        "struct S; impl S { fn climb(&self) { self.climb() } }",
        "fn climb() {} fn g() { climb() }",
    ] {
        assert!(found_in(A, &format!("{B}\n{other}"), C, D).is_empty(), "{other}");
    }
    let taken = "pub struct C;\nimpl C { pub fn take(&self) {} }";
    assert!(found_in(A, "fn f(x: &X) { x.take() }", taken, D).is_empty(), "a method of the standard library");
}

#[test]
fn a_chain_that_is_too_long_is_shown() {
    let long = format!("{D}\npub use E;");
    let rules = Rules { order: &[], levels: Some(2) };
    let files = [
        ("lib.rs", "mod a; mod b; mod c; pub use a::A;"),
        ("a.rs", "\nuse crate::c::C;\nuse crate::b::B;\npub struct A;"),
        ("b.rs", "use crate::c::C;\npub struct B;"),
        ("c.rs", "pub struct C;"),
    ];
    assert_eq!(found(&files, &rules), ["a.rs:3: a chain of 3 files, more than 2: a → b → c"]);
    assert!(found(&files, &Rules { levels: Some(3), ..rules }).is_empty());
    assert!(found_in(A, B, C, &long).is_empty());
}

#[test]
fn a_folder_without_a_place_and_a_place_without_a_folder_are_found() {
    let files = [("lib.rs", "mod low; mod other;"), ("low.rs", "fn f() {}"), ("other.rs", "fn f() {}")];
    let faults = found(&files, &Rules { order: ORDER, levels: None });
    let expected = [
        "other.rs:1: other has no place in the order of layers",
        "the order of layers has high, and the sources have not",
    ];
    assert_eq!(faults, expected);
}

#[test]
fn a_program_s_paths_into_the_library_beside_it_are_followed_and_other_crates_are_not() {
    let files = [
        ("main.rs", "mod step; use sample::tool::Tool; fn main() {}"),
        ("step.rs", "use std::step::Step; use libc; use sample::libc::c_int; impl sample::tool::Tool {}"),
        ("lib.rs", "pub mod tool; pub use libc; pub const NAME: u8 = 0;"),
        ("tool.rs", "use crate::libc::c_void; pub struct Tool;"),
    ];
    assert_eq!(
        found(&files, &Rules::default()),
        ["step.rs:1: step has `impl sample::tool::Tool`, which belongs to tool"]
    );
}

#[test]
fn planted_breaches_are_found_in_a_copy_and_the_package_stays_as_it_is() {
    let files = [
        ("lib.rs", "mod low; mod high;"),
        ("low/mod.rs", "mod a; mod b;"),
        ("low/a.rs", "pub struct A;"),
        ("low/b.rs", "use super::a::A;\nfn b(_: A) {}\n#[cfg(test)]\nmod tests {}"),
        ("high/mod.rs", "pub struct High;"),
    ];
    let (folder, package) = written(&files);
    let rules = Rules { order: ORDER, levels: None };
    planted::check(&package, &rules).unwrap();
    assert_eq!(std::fs::read_to_string(folder.path().join("low/b.rs")).unwrap(), files[3].1);
    let error = planted::check(&package, &Rules { order: &["low", "lib"], levels: None }).unwrap_err().to_string();
    assert_eq!(error, "no two folders for an upward import");
}
