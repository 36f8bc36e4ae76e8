//! Object: what an ELF file says about how it will be loaded and whose `malloc` it calls.

use anyhow::{Context, Result};
use goblin::elf::dynamic::{DF_SYMBOLIC, DT_FLAGS, DT_SYMBOLIC};
use goblin::elf::header::{EM_386, EM_AARCH64, EM_ARM, EM_RISCV, EM_X86_64};
use goblin::elf::sym::STB_WEAK;
use goblin::elf::{Elf, Sym};
use std::collections::BTreeSet;
use std::path::Path;

/// The facts about one ELF file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// Whether addresses have 64 bits.
    pub is_64_bit: bool,
    /// Whether the least significant byte comes first.
    pub is_little_endian: bool,
    /// `e_machine`.
    pub machine: u16,
    /// The loader that it asks for; `None` for a statically linked program and for most libraries.
    pub interpreter: Option<String>,
    /// The names that other objects see: defined in the dynamic symbol table.
    pub exports: BTreeSet<String>,
    /// The names that it needs from other objects; those it can do without (weak ones) are left out.
    pub imports: BTreeSet<String>,
    /// The functions of the full symbol table, which a stripped file lacks.
    pub functions: BTreeSet<String>,
    /// Whether it prefers its own definitions to those of objects before it.
    pub is_symbolic: bool,
    /// Whether the Go linker made it.
    pub is_go: bool,
    /// Whether it is linked with the C library musl.
    pub is_for_musl: bool,
    /// The versions of other objects' symbols that it asks for, such as `GLIBC_2.34`.
    pub versions: BTreeSet<String>,
}

impl Object {
    /// Reads an ELF file.
    pub fn read(path: &Path) -> Result<Object> {
        let bytes = std::fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
        Object::parse(&bytes).with_context(|| format!("{}", path.display()))
    }

    /// Reads the bytes of an ELF file.
    pub fn parse(bytes: &[u8]) -> Result<Object> {
        let elf = Elf::parse(bytes).context("a damaged ELF file")?;
        let dynamic_names = |are_wanted: fn(&Sym) -> bool| {
            let symbols = elf.dynsyms.iter().filter(are_wanted);
            symbols.filter_map(|symbol| elf.dynstrtab.get_at(symbol.st_name)).map(str::to_owned).collect()
        };
        let functions = elf.syms.iter().filter(|symbol| symbol.is_function() && symbol.st_shndx != 0);
        let entries = || elf.dynamic.iter().flat_map(|dynamic| &dynamic.dyns);
        let versions = elf.verneed.iter().flat_map(|section| section.iter());
        let versions = versions.flat_map(|need| need.iter().collect::<Vec<_>>());
        Ok(Object {
            is_64_bit: elf.is_64,
            is_little_endian: elf.little_endian,
            machine: elf.header.e_machine,
            interpreter: elf.interpreter.map(str::to_owned),
            exports: dynamic_names(|symbol| symbol.st_shndx != 0),
            imports: dynamic_names(|symbol| symbol.st_shndx == 0 && symbol.st_bind() != STB_WEAK),
            functions: functions.filter_map(|symbol| elf.strtab.get_at(symbol.st_name)).map(str::to_owned).collect(),
            is_symbolic: entries()
                .any(|entry| entry.d_tag == DT_SYMBOLIC || (entry.d_tag == DT_FLAGS && entry.d_val & DF_SYMBOLIC != 0)),
            is_go: elf
                .section_headers
                .iter()
                .filter_map(|section| elf.shdr_strtab.get_at(section.sh_name))
                .any(|name| name == ".go.buildinfo" || name == ".note.go.buildid"),
            is_for_musl: elf.libraries.iter().any(|name| *name == "libc.so" || name.starts_with("libc.musl-")),
            versions: versions
                .filter_map(|version| elf.dynstrtab.get_at(version.vna_name))
                .map(str::to_owned)
                .collect(),
        })
    }

    /// The processor that it is for, in words.
    pub fn architecture(&self) -> String {
        let bits = if self.is_64_bit { 64 } else { 32 };
        match self.machine {
            EM_X86_64 if self.is_64_bit => "x86-64".to_owned(),
            EM_X86_64 => "x32 (x86-64 with 32-bit addresses)".to_owned(),
            EM_386 => "32-bit x86".to_owned(),
            EM_AARCH64 => "AArch64".to_owned(),
            EM_ARM => "32-bit Arm".to_owned(),
            EM_RISCV => format!("{bits}-bit RISC-V"),
            other => format!("{bits}-bit machine number {other}"),
        }
    }

    /// Whether a process that runs `program` can load this library.
    pub fn fits(&self, program: &Object) -> bool {
        (self.is_64_bit, self.is_little_endian, self.machine)
            == (program.is_64_bit, program.is_little_endian, program.machine)
    }

    /// The newest version of the C library that it asks for.
    pub fn c_library_version(&self) -> Option<String> {
        let numbers = self.versions.iter().filter_map(|name| {
            let number = name.strip_prefix("GLIBC_")?;
            let parts: Option<Vec<u32>> = number.split('.').map(|part| part.parse().ok()).collect();
            Some((parts?, number))
        });
        numbers.max().map(|(_, number)| number.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_s_own_file_is_understood() {
        let own = Object::read(&std::env::current_exe().unwrap()).unwrap();
        assert!(own.interpreter.is_some() && own.imports.contains("malloc") && own.fits(&own));
        assert!(!own.exports.contains("malloc") && !own.is_go && !own.is_symbolic);
        assert!(own.c_library_version().is_some_and(|version| version.starts_with("2.")), "{:?}", own.versions);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let versions = ["GLIBC_2.9", "GLIBC_2.34", "GLIBC_2.3.4", "GLIBC_PRIVATE", "GCC_3.0"];
        let object = Object { versions: versions.map(str::to_owned).into(), ..Object::default() };
        assert_eq!(object.c_library_version().as_deref(), Some("2.34"));
    }

    #[test]
    fn a_library_fits_a_program_of_its_own_kind_only() {
        let library = Object { is_64_bit: true, is_little_endian: true, machine: EM_X86_64, ..Object::default() };
        assert!(library.fits(&library));
        let others = [
            Object { is_64_bit: false, ..library.clone() },
            Object { machine: EM_AARCH64, ..library.clone() },
            Object { is_little_endian: false, ..library.clone() },
        ];
        for other in others {
            assert!(!library.fits(&other), "{}", other.architecture());
        }
    }
}
