//! Library shape: what a preload library shows to the loader and to the programs it is loaded into.
//!
//! Checked: the exported names are the C allocation functions, the C++ operators and `hz3_*` names,
//! all of the first two and nothing else, each function at an address of its own; thread-local storage is small, because glibc takes it out
//! of every thread's stack; the library has its SONAME and needs the C library only, glibc of a version that every
//! distribution in use has, or musl without a function that this one lacks; and neither is its stack executable nor its code
//! relocated.

use anyhow::{Context, Result, ensure};
use goblin::elf::Elf;
use goblin::elf::dynamic::{DF_TEXTREL, DT_FLAGS, DT_TEXTREL};
use goblin::elf::header::EM_RISCV;
use goblin::elf::program_header::{PF_X, PT_GNU_STACK, PT_TLS};
use goblin::elf::sym::STB_WEAK;
use goblin::elf::symver::VER_FLG_WEAK;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// At most this much thread-local storage.
const TLS_LIMIT_BYTES: u64 = 64;

/// The C functions that a library must export.
const C_FUNCTIONS: [&str; 20] = [
    "malloc",
    "free",
    "calloc",
    "realloc",
    "reallocarray",
    "posix_memalign",
    "aligned_alloc",
    "memalign",
    "valloc",
    "pvalloc",
    "malloc_usable_size",
    "free_sized",
    "free_aligned_sized",
    "cfree",
    "malloc_trim",
    "mallopt",
    "mallinfo",
    "mallinfo2",
    "malloc_stats",
    "malloc_info",
];

/// Those that one for glibc exports besides.
const GLIBC_FUNCTIONS: [&str; 9] = [
    "__libc_malloc",
    "__libc_free",
    "__libc_calloc",
    "__libc_realloc",
    "__libc_memalign",
    "__libc_valloc",
    "__libc_pvalloc",
    "__posix_memalign",
    "dlopen",
];

/// The C++ operators that a library must export, as the Itanium ABI names them where `size_t` is
/// `unsigned long`: `nw`/`na` are `new`/`new[]`, `dl`/`da` are `delete`/`delete[]`.
const CPP_OPERATORS: [&str; 20] = [
    "_Znwm",
    "_Znam",
    "_ZnwmRKSt9nothrow_t",
    "_ZnamRKSt9nothrow_t",
    "_ZnwmSt11align_val_t",
    "_ZnamSt11align_val_t",
    "_ZnwmSt11align_val_tRKSt9nothrow_t",
    "_ZnamSt11align_val_tRKSt9nothrow_t",
    "_ZdlPv",
    "_ZdaPv",
    "_ZdlPvm",
    "_ZdaPvm",
    "_ZdlPvRKSt9nothrow_t",
    "_ZdaPvRKSt9nothrow_t",
    "_ZdlPvSt11align_val_t",
    "_ZdaPvSt11align_val_t",
    "_ZdlPvmSt11align_val_t",
    "_ZdaPvmSt11align_val_t",
    "_ZdlPvSt11align_val_tRKSt9nothrow_t",
    "_ZdaPvSt11align_val_tRKSt9nothrow_t",
];

/// The libraries that a library may need: the C library and its loader.
const ALLOWED_NEEDS: [&str; 4] =
    ["libc.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "ld-linux-riscv64-lp64d.so.1"];

/// As [`ALLOWED_NEEDS`], with musl, whose loader takes the name for itself.
const MUSL_NEEDS: [&str; 1] = ["libc.so"];

/// The newest version of glibc that may be needed, whatever the library was linked with.
const NEWEST_GLIBC: (u32, u32) = (2, 17);
/// As [`NEWEST_GLIBC`], on RISC-V: its first.
const NEWEST_GLIBC_OF_RISCV: (u32, u32) = (2, 27);

/// What the loader sees of a shared library.
#[derive(Debug, Default)]
pub struct Library {
    machine: u16,
    exports: BTreeSet<String>,
    /// Each function's names, where it has several.
    shared: Vec<String>,
    imports: BTreeSet<String>,
    /// Those of the imports without which it does not load.
    wanted: BTreeSet<String>,
    soname: Option<String>,
    needs: Vec<String>,
    /// Symbol versions without which it does not load.
    versions: BTreeSet<String>,
    tls_bytes: u64,
    executable_stack: bool,
    text_relocations: bool,
}

impl Library {
    /// Reads an ELF file.
    pub fn read(path: &Path) -> Result<Library> {
        let bytes = std::fs::read(path).with_context(|| format!("{}", path.display()))?;
        let elf = Elf::parse(&bytes).with_context(|| format!("{}", path.display()))?;
        let (imports, exports): (Vec<_>, Vec<_>) = elf.dynsyms.iter().partition(|symbol| symbol.st_shndx == 0);
        let mut at = BTreeMap::<u64, Vec<&str>>::new();
        for symbol in exports.iter().filter(|symbol| symbol.is_function()) {
            at.entry(symbol.st_value).or_default().extend(elf.dynstrtab.get_at(symbol.st_name));
        }
        let shared = at.values().filter(|names| names.len() > 1).map(|names| names.join(" and ")).collect();
        let names = |symbols: &[goblin::elf::Sym]| {
            let names = symbols.iter().filter_map(|symbol| elf.dynstrtab.get_at(symbol.st_name));
            names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
        };
        let segments = |kind| elf.program_headers.iter().filter(move |header| header.p_type == kind);
        let text_relocations = elf
            .dynamic
            .iter()
            .flat_map(|dynamic| &dynamic.dyns)
            .any(|entry| entry.d_tag == DT_TEXTREL || (entry.d_tag == DT_FLAGS && entry.d_val & DF_TEXTREL != 0));
        Ok(Library {
            machine: elf.header.e_machine,
            exports: names(&exports),
            shared,
            imports: names(&imports),
            wanted: names(&imports.into_iter().filter(|symbol| symbol.st_bind() != STB_WEAK).collect::<Vec<_>>()),
            soname: elf.soname.map(str::to_owned),
            needs: elf.libraries.iter().map(|&name| name.to_owned()).collect(),
            versions: needed_versions(&elf),
            tls_bytes: segments(PT_TLS).map(|header| header.p_memsz).sum(),
            executable_stack: segments(PT_GNU_STACK).any(|header| header.p_flags & PF_X != 0),
            text_relocations,
        })
    }

    /// The names that the loader looks for elsewhere.
    pub fn imports(&self) -> &BTreeSet<String> {
        &self.imports
    }

    /// The names that others find here.
    pub fn exports(&self) -> &BTreeSet<String> {
        &self.exports
    }

    /// Checks everything; the error lists all that is wrong.
    pub fn check(&self, soname: &str) -> Result<()> {
        let faults = self.faults(soname, None);
        ensure!(faults.is_empty(), "{}", faults.join("\n"));
        Ok(())
    }

    /// As [`Library::check`], of a library for musl, which is `c_library`.
    pub fn check_for_musl(&self, soname: &str, c_library: &Library) -> Result<()> {
        let faults = self.faults(soname, Some(c_library));
        ensure!(faults.is_empty(), "{}", faults.join("\n"));
        Ok(())
    }

    fn faults(&self, soname: &str, musl: Option<&Library>) -> Vec<String> {
        let mut faults = Vec::new();
        let further = if musl.is_some() { &[][..] } else { &GLIBC_FUNCTIONS };
        let needs = if musl.is_some() { &MUSL_NEEDS[..] } else { &ALLOWED_NEEDS };
        let required = || C_FUNCTIONS.iter().chain(further).chain(&CPP_OPERATORS);
        if let Some(musl) = musl {
            let there = |name: &&String| musl.exports.contains(*name) || self.exports.contains(*name);
            let lacking = self.wanted.iter().filter(|name| !there(name));
            faults.extend(lacking.map(|name| format!("musl has no {name}")));
            faults.extend(self.versions.iter().map(|version| format!("{version} is needed, and musl has no versions")));
        }
        for name in required().filter(|name| !self.exports.contains(**name)) {
            faults.push(format!("{name} is not exported"));
        }
        for name in &self.exports {
            if !name.starts_with("hz3_") && !required().any(|required| required == name) {
                faults.push(format!("{name} is exported"));
            }
        }
        for names in &self.shared {
            faults.push(format!("{names} have one address"));
        }
        if self.soname.as_deref() != Some(soname) {
            faults.push(format!("the SONAME is {:?}, not {soname}", self.soname));
        }
        for name in self.needs.iter().filter(|name| !needs.contains(&name.as_str())) {
            faults.push(format!("{name} is needed"));
        }
        let newest = if self.machine == EM_RISCV { NEWEST_GLIBC_OF_RISCV } else { NEWEST_GLIBC };
        for version in self.versions.iter().filter(|version| !is_old(version, newest)) {
            faults.push(format!("{version} is needed, newer than GLIBC_{}.{}", newest.0, newest.1));
        }
        if self.tls_bytes > TLS_LIMIT_BYTES {
            faults.push(format!(
                "{} bytes of thread-local storage, at most {TLS_LIMIT_BYTES} are allowed",
                self.tls_bytes
            ));
        }
        if self.executable_stack {
            faults.push("the stack is executable".to_owned());
        }
        if self.text_relocations {
            faults.push("the code is relocated at load time".to_owned());
        }
        faults
    }
}

/// All but those that are marked as weak.
fn needed_versions(elf: &Elf) -> BTreeSet<String> {
    let mut needed = BTreeSet::new();
    for file in elf.verneed.iter().flat_map(|section| section.iter()) {
        let strong = file.iter().filter(|version| version.vna_flags & VER_FLG_WEAK == 0);
        needed.extend(strong.filter_map(|version| elf.dynstrtab.get_at(version.vna_name)).map(str::to_owned));
    }
    needed
}

/// Whether `version` is `GLIBC_` with a number up to `newest`.
fn is_old(version: &str, newest: (u32, u32)) -> bool {
    let number = version.strip_prefix("GLIBC_").and_then(|number| {
        let mut parts = number.split('.').map(str::parse::<u32>);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    });
    number.is_some_and(|number| number <= newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Library {
        Library {
            exports: C_FUNCTIONS
                .iter()
                .chain(&GLIBC_FUNCTIONS)
                .chain(&CPP_OPERATORS)
                .map(|name| name.to_string())
                .collect(),
            soname: Some("libx.so".to_owned()),
            needs: vec!["libc.so.6".to_owned()],
            tls_bytes: 8,
            ..Library::default()
        }
    }

    #[test]
    fn a_sound_library_has_no_faults_and_may_export_its_own_names() {
        let mut library = sound();
        library.exports.insert("hz3_version".to_owned());
        assert!(library.check("libx.so").is_ok());
    }

    #[test]
    fn each_deviation_is_a_fault() {
        let mut library = sound();
        library.exports.remove("aligned_alloc");
        library.exports.insert("memcpy".to_owned());
        library.needs.push("libgcc_s.so.1".to_owned());
        library.tls_bytes = TLS_LIMIT_BYTES + 1;
        library.executable_stack = true;
        library.text_relocations = true;
        library.shared.push("free and cfree".to_owned());
        library.versions = ["GLIBC_2.2.5", "GLIBC_2.17", "GLIBC_2.18", "GLIBC_ABI_DT_RELR"].map(str::to_owned).into();
        assert_eq!(library.faults("liby.so", None).len(), 10);
    }

    #[test]
    fn risc_v_s_first_glibc_is_old_enough_there_alone() {
        let mut library = sound();
        library.versions = ["GLIBC_2.27", "GLIBC_2.28"].map(str::to_owned).into();
        assert_eq!(library.faults("libx.so", None).len(), 2);
        library.machine = EM_RISCV;
        assert_eq!(library.faults("libx.so", None), ["GLIBC_2.28 is needed, newer than GLIBC_2.27"]);
    }

    #[test]
    fn what_only_glibc_has_is_a_fault_of_a_library_for_musl() {
        let musl = Library { exports: ["mmap".to_owned()].into(), ..Library::default() };
        let mut library = sound();
        library.exports.retain(|name| !GLIBC_FUNCTIONS.contains(&name.as_str()));
        library.needs = vec!["libc.so".to_owned()];
        library.wanted = ["mmap".to_owned()].into();
        assert_eq!(library.faults("libx.so", Some(&musl)), Vec::<String>::new());
        library.wanted.insert("__register_atfork".to_owned());
        library.versions.insert("GLIBC_2.17".to_owned());
        library.exports.insert("__libc_malloc".to_owned());
        library.needs.push("libc.so.6".to_owned());
        assert_eq!(library.faults("libx.so", Some(&musl)).len(), 4);
    }

    #[test]
    fn a_real_library_s_names_are_read() {
        let own = std::env::current_exe().unwrap();
        let library = Library::read(&own).unwrap();
        assert!(library.needs.iter().any(|name| name == "libc.so.6"), "{library:?}");
        assert!(library.imports.contains("memcpy") && !library.exports.contains("memcpy"), "{library:?}");
        assert!(library.versions.iter().any(|version| version.starts_with("GLIBC_")), "{library:?}");
    }
}
