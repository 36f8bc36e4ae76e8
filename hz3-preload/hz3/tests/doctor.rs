//! `doctor` on real programs: what it says of each, and its exit code.

extern crate hz3_tool as hz3;

mod common;

use common::{Tested, compile, skipped, text, try_compile};
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

const HZ3: Tested = Tested { program: env!("CARGO_BIN_EXE_hz3"), prefix: "hz3", is_installed: true };

const PLAIN: &str = "#include <stdlib.h>\nint main(void) { void *p = malloc(10); free(p); return p == 0; }\n";

/// A program whose allocator is a pointer into an array.
const OWN_MALLOC: &str = "
    #include <stddef.h>
    static char space[1 << 20];
    static size_t used;
    void *malloc(size_t n) { void *p = space + used; used += (n + 15) & ~(size_t)15; return p; }
    void free(void *p) { (void)p; }
    void *calloc(size_t n, size_t size) { return malloc(n * size); }
    void *realloc(void *p, size_t n) { return p ? NULL : malloc(n); }
    int main(void) { return malloc(10) == NULL; }
";

/// What doctor prints, after its exit code is checked.
fn doctor(program: &Path, code: i32) -> String {
    let output = HZ3.run(&["doctor", text(program)]);
    let printed = String::from_utf8(output.stdout).unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{printed}{complaint}");
    let expected = if code == 0 { "LD_PRELOAD works for this program." } else { "LD_PRELOAD does not work" };
    assert!(printed.contains(expected), "{printed}");
    printed
}

#[test]
fn a_normal_program_works_and_the_loader_confirms_it() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile(folder.path(), "plain", PLAIN, &[]);
    let printed = doctor(&program, 0);
    assert!(printed.contains("list has libhakozuna_hz3_scale.so first"), "{printed}");
    assert!(!printed.contains("stops "), "{printed}");
}

#[test]
fn the_other_lane_is_looked_for_when_asked() {
    let output = HZ3.run(&["doctor", "--lane", "fast", "sh"]);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && printed.contains("libhakozuna_hz3_fast.so first"), "{printed}");
}

#[test]
fn a_script_is_followed_to_its_interpreter() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, "#!/usr/bin/env sh\nexit 0\n").unwrap();
    std::fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let printed = doctor(&script, 0);
    assert!(printed.contains("a script, run by") && printed.contains("/sh"), "{printed}");
}

#[test]
fn a_static_program_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    for option in ["-static", "-static-pie"] {
        match try_compile(folder.path(), "static", PLAIN, &[option]) {
            Ok(program) => {
                let printed = doctor(&program, 1);
                assert!(printed.contains("statically linked"), "{printed}");
            }
            Err(complaint) => skipped(&format!("{option} does not link (is libc.a installed?)"), &complaint),
        }
    }
}

#[test]
fn a_program_with_its_own_malloc_is_stopped_whether_it_exports_it_or_not() {
    let folder = tempfile::tempdir().unwrap();
    for options in [&["-rdynamic"][..], &[]] {
        let program = compile(folder.path(), "own", OWN_MALLOC, options);
        let printed = doctor(&program, 1);
        assert!(printed.contains("malloc") && printed.contains("stops "), "{printed}");
    }
}

#[test]
fn a_library_with_its_own_malloc_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let source = OWN_MALLOC.replace("int main(void)", "int other(void)");
    compile(folder.path(), "libother.so", &source, &["-shared", "-fPIC"]);
    let rpath = format!("-Wl,-rpath,{}", folder.path().display());
    let place = format!("-L{}", folder.path().display());
    let program = compile(
        folder.path(),
        "user",
        &PLAIN.replace("int main(void) {", "int other(void); int main(void) { other();"),
        &[&place, "-lother", &rpath],
    );
    let printed = doctor(&program, 0);
    assert!(printed.contains("libother.so is loaded with the program"), "{printed}");
    assert!(printed.contains("list has libhakozuna_hz3_scale.so first"), "{printed}");
    std::fs::remove_file(folder.path().join("libother.so")).unwrap();
    let printed = doctor(&program, 1);
    assert!(printed.contains("can't be loaded: libother.so: cannot open"), "{printed}");
}

#[test]
fn a_set_user_id_program_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile(folder.path(), "privileged", PLAIN, &[]);
    if let Err(error) = chown(&program, Some(65_534), None) {
        skipped("only root can make a program of another user", &error.to_string());
        return;
    }
    std::fs::set_permissions(&program, Permissions::from_mode(0o4755)).unwrap();
    let output = HZ3.run(&["doctor", text(&program)]);
    let printed = String::from_utf8(output.stdout).unwrap();
    if printed.contains("nosuid") {
        skipped("a set-user-id program", "the folder of temporary files is mounted with nosuid");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(printed.contains("stops  the program is set-user-id"), "{printed}");
    assert!(printed.contains("The loader was not asked"), "{printed}");
}

#[test]
fn a_limited_address_space_and_small_stacks_are_named() {
    // Small enough to be noted, large enough for what doctor itself starts.
    let script = "ulimit -v 8000000; ulimit -s 512; exec \"$@\"";
    let doctor = HZ3.command(&["doctor", "sh"]);
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", script, "sh"]).arg(doctor.get_program()).args(doctor.get_args());
    limited.envs(doctor.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = limited.output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("address space is limited to 7812 MiB"), "{printed}");
    assert!(printed.contains("stacks of 512 KiB"), "{printed}");
}

#[test]
fn what_is_no_program_gives_one_line_and_code_2() {
    HZ3.assert_one_line_and_code_2(&["doctor", "hz3-no-such-program"], "was not found");
    HZ3.assert_one_line_and_code_2(&["doctor", "/"], "is a folder");
    HZ3.assert_one_line_and_code_2(&["doctor", "--lane", "slow", "sh"], "slow");
    HZ3.assert_one_line_and_code_2(&["doctor"], "<PROGRAM>");
}
