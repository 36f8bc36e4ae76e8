//! Program: the findings about the program's own file and the libraries that are loaded with it.

use super::finding::Finding;
use super::object::Object;
use super::target::{End, Target};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The functions that an allocator must replace together.
pub const CORE_FUNCTIONS: [&str; 4] = ["malloc", "calloc", "realloc", "free"];

/// Allocators, with a function of each that no other one has.
const MARKS: [(&str, &[&str]); 8] = [
    ("jemalloc", &["mallctl", "je_mallctl", "_rjem_mallctl"]),
    ("tcmalloc", &["tc_malloc", "MallocExtension_ReleaseFreeMemory", "TCMallocInternalMalloc"]),
    ("mimalloc", &["mi_malloc"]),
    ("snmalloc", &["sn_malloc", "sn_rust_alloc"]),
    ("rpmalloc", &["rpmalloc"]),
    ("Scudo", &["__scudo_print_stats"]),
    ("Hoard", &["xxmalloc"]),
    ("hz3", &["hz3_version"]),
];

/// Names under which an allocator is called without taking the place of `malloc`.
const OTHER_NAMES: [(&str, &[&str]); 5] = [
    ("jemalloc", &["je_malloc", "_rjem_malloc", "je_mallocx", "_rjem_mallocx"]),
    ("mimalloc", &["mi_malloc"]),
    ("tcmalloc", &["tc_malloc"]),
    ("snmalloc", &["sn_malloc", "sn_rust_alloc"]),
    ("rpmalloc", &["rpmalloc"]),
];

/// jemalloc's further interface; its blocks go back through `free` too.
const EXTENDED: [&str; 6] = ["mallocx", "rallocx", "xallocx", "sallocx", "dallocx", "sdallocx"];

/// Initialisers of the sanitizers' run-time libraries, which bring a `malloc` that must come first.
const SANITIZERS: [(&str, &str); 4] = [
    ("__asan_init", "AddressSanitizer"),
    ("__hwasan_init", "HWAddressSanitizer"),
    ("__tsan_init", "ThreadSanitizer"),
    ("__msan_init", "MemorySanitizer"),
];

/// Beginnings of file names of programs and libraries that load modules with `RTLD_DEEPBIND`.
const DEEPBIND_USERS: [&str; 5] = ["julia", "libjulia", "php", "libphp", "libapr-1"];

/// A loaded library with what its file says.
pub struct Loaded {
    /// Where it lies.
    pub path: PathBuf,
    /// Its facts.
    pub object: Object,
}

/// The findings about the way from the name to the file that is loaded.
pub fn of_target(target: &Target) -> Vec<Finding> {
    let mut findings = Vec::new();
    if target.files.len() > 1 {
        let (asked, loaded) = (target.asked().display(), target.loaded().display());
        findings.push(Finding::note(
            format!("a script, run by {loaded}"),
            "The library is preloaded into the interpreter and into every program that the script starts.",
            format!(
                "nothing; the rest of this report is about {loaded}. Run doctor on the programs that {asked} starts, too."
            ),
        ));
    }
    let file = target.loaded().display();
    match &target.end {
        End::Elf => {}
        End::Text => findings.push(Finding::stops(
            format!("{file} is a text without a #! line"),
            "Shells run it themselves; the system can't execute it, and what runs it is not known.",
            "give it a first line such as #!/bin/sh, or run doctor on the interpreter.",
        )),
        End::Unknown => findings.push(Finding::stops(
            format!("{file} is no ELF file and no script"),
            "The system refuses it or hands it to a helper (binfmt_misc) that decides what happens.",
            "run doctor on the helper, such as wine, qemu or java.",
        )),
        End::NoInterpreter(name) => findings.push(Finding::stops(
            format!("the interpreter of {file} is missing: {name}"),
            "The script can't be run at all.",
            "install the interpreter or correct the script's first line.",
        )),
        End::TooDeep => findings.push(Finding::stops(
            format!("{} is interpreted by too many scripts", target.asked().display()),
            "The kernel follows no more than five.",
            "name a program as the interpreter.",
        )),
    }
    findings
}

/// The findings about how the program's file is loaded. The first one that stops makes the others moot.
pub fn of_format(program: &Object, library: &Object) -> Vec<Finding> {
    if !library.fits(program) {
        return vec![Finding::stops(
            format!("the program is for {}, the library for {}", program.architecture(), library.architecture()),
            "The loader skips the library with one line on standard error, and the program runs on its own malloc.",
            "use a build of the program for this processor.",
        )];
    }
    let Some(interpreter) = &program.interpreter else {
        let go = if program.is_go { " It is a Go program, whose memory is Go's own in any case." } else { "" };
        return vec![Finding::stops(
            "the program is statically linked",
            format!("There is no loader that reads LD_PRELOAD; the program runs on the malloc it was linked with.{go}"),
            "link it dynamically, or link hz3 into it (docs/c.md).",
        )];
    };
    let name = Path::new(interpreter).file_name().unwrap_or(OsStr::new(interpreter)).to_string_lossy();
    let is_musl = name.starts_with("ld-musl");
    if is_musl && !library.is_for_musl {
        return vec![Finding::stops(
            "the program uses the C library musl, the library glibc",
            "musl's loader finds not all that the library needs of glibc.",
            "use a build of the library for musl (docs/install.md), or one of the program for glibc.",
        )];
    }
    if !is_musl && !name.starts_with("ld-linux") {
        return vec![Finding::stops(
            format!("the program asks for another loader: {interpreter}"),
            "Only those of glibc and musl are known to work with the library.",
            "use a build of the program for one of them.",
        )];
    }
    if !is_musl && library.is_for_musl {
        return vec![Finding::stops(
            "the library uses the C library musl, the program glibc",
            "glibc's loader finds no libc.so, and the program does not start.",
            "use a build of the library for glibc.",
        )];
    }
    if !Path::new(interpreter).is_file() {
        return vec![Finding::stops(
            format!("the program's loader is missing: {interpreter}"),
            "The program can't be started.",
            "install the C library that it was built for.",
        )];
    }
    if program.is_go {
        return vec![Finding::bends(
            "a Go program",
            "Go's own objects are not allocated with malloc; the library serves only the C code in it.",
            "nothing; expect little difference.",
        )];
    }
    Vec::new()
}

/// The findings about the `malloc` that the program has of its own.
pub fn of_own_malloc(program: &Object) -> Vec<Finding> {
    let mut findings = Vec::new();
    let names: BTreeSet<&str> = program.exports.iter().chain(&program.functions).map(String::as_str).collect();
    let has = |name: &str| names.contains(name);
    let maker = maker_of(&names).map_or_else(String::new, |maker| format!(", {maker}"));
    if let Some((_, sanitizer)) = SANITIZERS.iter().find(|(name, _)| has(name) || program.imports.contains(*name)) {
        findings.push(Finding::stops(
            format!("the program is built with {sanitizer}"),
            "The sanitizer's malloc must come first and must serve every block; it refuses to start behind another one.",
            "measure and run a build without the sanitizer.",
        ));
        return findings;
    }
    let exported: Vec<&str> = CORE_FUNCTIONS.into_iter().filter(|name| program.exports.contains(*name)).collect();
    let hidden = has("malloc") && exported.is_empty();
    if exported.contains(&"malloc") {
        findings.push(Finding::stops(
            format!("the program defines malloc itself{maker}"),
            "The program comes before every library when a name is looked up, preloaded ones included.",
            "build it without its allocator (a configure option, a feature, or -l flag), or keep it.",
        ));
    } else if hidden && !program.imports.contains("malloc") {
        findings.push(Finding::stops(
            format!("the program has a malloc of its own that is not exported{maker}"),
            "Its calls were bound to it when it was linked; the library would serve only the program's libraries.",
            "build it without its allocator, or keep it.",
        ));
    } else if !exported.is_empty() {
        findings.push(Finding::bends(
            format!("the program defines some allocation functions itself: {}", exported.join(", ")),
            "They come before the library's; a wrapper that calls the next definition is harmless, an allocator is not.",
            "find out what they do; if they allocate, build the program without them.",
        ));
    }
    if !findings.is_empty() {
        return findings;
    }
    for (allocator, other_names) in OTHER_NAMES {
        let called: Vec<&str> =
            other_names.iter().copied().filter(|name| has(name) || program.imports.contains(*name)).collect();
        if !called.is_empty() {
            findings.push(Finding::bends(
                format!("the program calls {allocator} by its own names ({})", called.join(", ")),
                "What is allocated that way does not come from the library.",
                format!("build the program without {allocator} to have the library serve all of it."),
            ));
        }
    }
    let extended: Vec<&str> = EXTENDED.into_iter().filter(|name| program.imports.contains(*name)).collect();
    if !extended.is_empty() {
        findings.push(Finding::bends(
            format!("the program calls jemalloc's further interface: {}", extended.join(", ")),
            "A block from there that is given to free reaches the library, which stops the process at a foreign pointer.",
            "build the program for the plain malloc interface.",
        ));
    }
    findings
}

/// The findings about the libraries that are loaded with the program, hz3's own and the C library left out.
pub fn of_libraries(program_path: &Path, program: &Object, libraries: &[Loaded]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for library in libraries {
        let name = library.path.file_name().unwrap_or_default().to_string_lossy();
        let names: BTreeSet<&str> = library.object.exports.iter().map(String::as_str).collect();
        if let Some((mark, sanitizer)) = SANITIZERS.iter().find(|(mark, _)| library.object.exports.contains(*mark)) {
            // Where the program itself asks for it, that has been said.
            if program.imports.contains(*mark) {
                continue;
            }
            findings.push(Finding::stops(
                format!("the program is built with {sanitizer} ({name})"),
                "The sanitizer's malloc must come first; it refuses to start behind another one.",
                "measure and run a build without the sanitizer.",
            ));
        } else if library.object.exports.contains("malloc") {
            let maker = maker_of(&names).unwrap_or("a malloc of its own");
            findings.push(if library.object.is_symbolic {
                Finding::bends(
                    format!("{name} has {maker} and prefers it (linked with -Bsymbolic)"),
                    "Blocks that it allocates itself are foreign to hz3, which stops the process if it is asked to free one.",
                    format!("use a build of {name} without its allocator."),
                )
            } else {
                Finding::note(
                    format!("{name} is loaded with the program and has {maker}"),
                    "The preloaded library comes before it and serves all calls of malloc and free.",
                    "nothing; figures that the program asks that allocator for will be empty.",
                )
            });
        }
    }
    findings.extend(of_dlopen(program_path, program, libraries));
    findings
}

fn of_dlopen(program_path: &Path, program: &Object, libraries: &[Loaded]) -> Option<Finding> {
    let file_name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let own = std::iter::once((file_name(program_path), program));
    let all = own.chain(libraries.iter().map(|library| (file_name(&library.path), &library.object)));
    let importers: Vec<String> =
        all.filter(|(_, object)| object.imports.contains("dlopen")).map(|(name, _)| name).collect();
    let known = importers.iter().find(|name| DEEPBIND_USERS.iter().any(|user| name.starts_with(user)));
    let meaning = "A module loaded with RTLD_DEEPBIND finds the C library's malloc before hz3's; where it frees the \
                   program's blocks, or the reverse, the process stops.";
    match (known, &importers[..]) {
        (Some(user), _) => Some(Finding::bends(
            format!("{user} is known to load modules with RTLD_DEEPBIND"),
            meaning,
            "try it with the modules that you use; a line `hz3: free(): invalid pointer` is this fault.",
        )),
        (None, []) => None,
        (None, names) => Some(Finding::note(
            format!("modules may be loaded at run time (dlopen, from {})", names.join(", ")),
            format!("Which flags are used can't be seen from outside. {meaning}"),
            "nothing, unless a line `hz3: free(): invalid pointer` appears.",
        )),
    }
}

fn maker_of(names: &BTreeSet<&str>) -> Option<&'static str> {
    MARKS.iter().find(|(_, marks)| marks.iter().any(|mark| names.contains(mark))).map(|(maker, _)| *maker)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;
    use goblin::elf::header::{EM_386, EM_X86_64};

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn plain() -> Object {
        Object {
            is_64_bit: true,
            is_little_endian: true,
            machine: EM_X86_64,
            interpreter: Some("/lib64/ld-linux-x86-64.so.2".to_owned()),
            imports: set(&["malloc", "free"]),
            ..Object::default()
        }
    }

    fn only(findings: &[Finding]) -> (Severity, &str) {
        assert_eq!(findings.len(), 1, "{findings:?}");
        (findings[0].severity, &findings[0].what)
    }

    fn library(path: &str, exports: &[&str], imports: &[&str]) -> Loaded {
        Loaded {
            path: path.into(),
            object: Object { exports: set(exports), imports: set(imports), ..Object::default() },
        }
    }

    #[test]
    fn another_processor_static_linking_and_musl_stop() {
        let program = Object { is_64_bit: false, machine: EM_386, ..plain() };
        let (severity, what) = (of_format(&program, &plain())[0].severity, &of_format(&program, &plain())[0].what);
        assert!(severity == Severity::Stops && what.contains("32-bit x86"), "{what}");
        for (interpreter, part) in
            [(None, "statically"), (Some("/lib/ld-musl-x86_64.so.1"), "musl"), (Some("/x/ld-linux.so"), "missing")]
        {
            let program = Object { interpreter: interpreter.map(str::to_owned), ..plain() };
            let findings = of_format(&program, &plain());
            let (severity, what) = only(&findings);
            assert!(severity == Severity::Stops && what.contains(part), "{what}");
        }
    }

    #[test]
    fn a_library_for_musl_serves_programs_for_musl_alone() {
        let library = Object { is_for_musl: true, ..plain() };
        assert_eq!(
            only(&of_format(&plain(), &library)),
            (Severity::Stops, "the library uses the C library musl, the program glibc")
        );
        let program = Object { interpreter: Some("/none/ld-musl-x86_64.so.1".to_owned()), ..plain() };
        assert!(only(&of_format(&program, &library)).1.contains("missing"));
        assert!(only(&of_format(&program, &plain())).1.contains("musl"));
    }

    #[test]
    fn a_malloc_in_the_program_stops_and_is_named_whether_exported_or_not() {
        let exporting = Object { exports: set(&["malloc", "free", "mallctl"]), ..plain() };
        let hiding = Object { functions: set(&["malloc", "free", "mi_malloc"]), imports: set(&["strlen"]), ..plain() };
        for (program, maker) in [(exporting, "jemalloc"), (hiding, "mimalloc")] {
            let findings = of_own_malloc(&program);
            let (severity, what) = only(&findings);
            assert!(severity == Severity::Stops && what.contains(maker), "{what}");
        }
        assert!(of_own_malloc(&plain()).is_empty());
    }

    #[test]
    fn half_a_malloc_and_an_allocator_by_other_names_bend() {
        let half = Object { exports: set(&["free"]), ..plain() };
        let renamed = Object { functions: set(&["_rjem_malloc"]), ..plain() };
        let extended = Object { imports: set(&["malloc", "mallocx"]), ..plain() };
        for (program, part) in [(half, "free"), (renamed, "jemalloc"), (extended, "mallocx")] {
            let findings = of_own_malloc(&program);
            let (severity, what) = only(&findings);
            assert!(severity == Severity::Bends && what.contains(part), "{what}");
        }
    }

    #[test]
    fn sanitizers_stop_in_the_program_and_in_a_library() {
        let own = Object { imports: set(&["malloc", "__asan_init"]), ..plain() };
        assert_eq!(only(&of_own_malloc(&own)).0, Severity::Stops);
        let libraries = [library("/lib/libtsan.so.2", &["malloc", "__tsan_init"], &[])];
        let findings = of_libraries(Path::new("/bin/x"), &plain(), &libraries);
        assert_eq!(only(&findings), (Severity::Stops, "the program is built with ThreadSanitizer (libtsan.so.2)"));
        let own = Object { imports: set(&["malloc", "__tsan_init"]), ..plain() };
        assert!(of_libraries(Path::new("/bin/x"), &own, &libraries).is_empty(), "it is said once");
    }

    #[test]
    fn a_library_with_a_malloc_is_replaced_unless_it_prefers_its_own() {
        let mut libraries = [library("/lib/libjemalloc.so.2", &["malloc", "mallctl"], &[])];
        let severity = |libraries: &[Loaded]| only(&of_libraries(Path::new("/bin/x"), &plain(), libraries)).0;
        assert_eq!(severity(&libraries), Severity::Note);
        libraries[0].object.is_symbolic = true;
        assert_eq!(severity(&libraries), Severity::Bends);
    }

    #[test]
    fn dlopen_is_a_note_and_a_known_user_of_deepbind_bends() {
        let libraries = [library("/lib/libx.so", &[], &["dlopen"])];
        let severity = |path: &str| only(&of_libraries(Path::new(path), &plain(), &libraries)).0;
        assert_eq!(severity("/bin/x"), Severity::Note);
        let libraries = [library("/lib/libjulia.so.1", &[], &["dlopen"])];
        let findings = of_libraries(Path::new("/bin/x"), &plain(), &libraries);
        assert_eq!(only(&findings).0, Severity::Bends);
        assert!(of_libraries(Path::new("/bin/x"), &plain(), &[]).is_empty());
    }
}
