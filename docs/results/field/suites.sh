#!/bin/sh
# Other projects' tests under glibc's malloc or a lane (docs/testing.md).
#
#   sh suites.sh build SUITE SOURCES          SUITE: glibc, posix, ltp, postgres, redis
#   sh suites.sh run SUITE SOURCES [LIBRARY]  one line `STATUS TEST` each; without LIBRARY, glibc's malloc
#
# SOURCES is an absolute path. Output of test T: SOURCES/hz3-run/T. JOBS tests at a time, two by default.
set -u
what=$1 suite=$2 src=$3 library=${4:-}
self=$(realpath "$0")

# glibc: its `support` library and tests outside its build, for the installed glibc. What needs its internals does not
# build and is left out.
glibc_shims() {
    mkdir -p shim bin support.o
    for header in libc-diag array_length intprops intprops-internal scratch_buffer libc-pointer-arith; do
        cp "$src/include/$header.h" shim
    done
    cp "$src/sysdeps/x86/nptl/pthreaddef.h" "$src/sysdeps/generic/tst-stack-align.h" "$src/posix/tst-spawn.h" \
        "$src/sysdeps/unix/sysv/linux/tst-skeleton-affinity.c" \
        "$src/sysdeps/unix/sysv/linux/tst-skeleton-thread-affinity.c" shim
    touch shim/libc-config.h shim/libc-symbols.h
    echo '#include <pthread.h>' | tee shim/descr.h >shim/pthreadP.h
    echo 'extern void *__dso_handle __attribute__ ((visibility ("hidden")));' >shim/dso_handle.h
    printf '%s\n' '#define MALLOC_ALIGNMENT 16' '#define MALLOC_ALIGN_MASK 15' >shim/malloc-size.h
    printf '%s\n' '#define atomic_store_relaxed(p, v) __atomic_store_n (p, v, 0)' \
        '#define atomic_load_relaxed(p) __atomic_load_n (p, 0)' >shim/atomic.h
    printf '%s\n' '#include <elf.h>' '#define DEFAULT_STACK_PERMS (PF_R | PF_W)' '#define _STACK_GROWS_DOWN 1' \
        >shim/stackinfo.h
    cat >shim/allocate_once.h <<'END'
#include <stdlib.h>
static inline void *
allocate_once (void **place, void *(*make) (void *), void (*drop) (void *, void *), void *closure)
{
  if (*place == NULL)
    *place = make (closure);
  return *place;
}
END
    cat >shim/shim.h <<'END'
#include <errno.h>
#include <limits.h>
#define attribute_hidden
#define libc_hidden_proto(...)
#define libc_hidden_def(...)
#define TIMEOUTFACTOR 1
#define DEFAULT_STACK_PROT_PERMS (PROT_READ | PROT_WRITE)
#define __set_errno(error) (errno = (error))
#define __attribute_optimization_barrier__ __attribute__ ((noinline, noclone))
END
}

glibc_build() {
    cd "$src" && glibc_shims
    paths=$(for name in SRCDIR OBJDIR INSTDIR LIBDIR BINDIR SBINDIR SLIBDIR ROOTSBINDIR COMPLOCALEDIR SYSCONFDIR; do
        printf ' -D%s_PATH="/"' $name
    done)
    cc="gcc -O2 -g -std=gnu11 -fgnu89-inline -w -D_GNU_SOURCE -include shim/shim.h -Ishim -I. -Isupport
        -DOBJDIR_ELF_LDSO_PATH=\"/\"$paths"
    for file in support/*.c malloc/scratch_buffer_*.c; do
        case $file in *tst-* | *container* | *links-dso* | *test-driver* | *test-run*) continue ;; esac
        $cc -c "$file" -o "support.o/$(basename "$file" .c).o" 2>/dev/null || echo "no $file"
    done
    ar rcs libsupport.a support.o/*.o
    for folder in malloc sysdeps/pthread nptl; do
        for file in "$folder"/*mod*.c; do
            $cc -include stdbool.h -iquote nptl -iquote sysdeps/pthread -shared -fPIC "$file" \
                -o "bin/$(basename "$file" .c).so" 2>/dev/null
        done
        for file in "$folder"/tst-*.c; do
            name=$(basename "$file" .c) more=
            # Names that say: a part of another test; internals of glibc's; statically linked; a later glibc's function.
            case $name in *mod | *mod? | *-aux* | *-lib | *skeleton* | *-common | *static* | *compathooks* | *dynarray*) continue ;; esac
            case $name in
            tst-interpose*) more=malloc/tst-interpose-aux-${name#tst-interpose-}.c ;;
            *free*sized*) more=-Wl,--unresolved-symbols=ignore-all ;;
            esac
            # Those without threads of their own are built twice more: in and beside a thread.
            variants=plain
            case $folder/$name in
            *thread* | *fork* | *interpose*) ;;
            malloc/*) variants='plain MAIN WORKER' ;;
            esac
            for variant in $variants; do
                $cc -iquote sysdeps/pthread -iquote nptl -iquote malloc -DTEST_IN_THREAD=TEST_THREAD_$variant \
                    $([ $variant = plain ] && echo -UTEST_IN_THREAD) "$file" $more -rdynamic libsupport.a -lm \
                    -o "bin/$name-$variant" 2>/dev/null || echo "no $name-$variant"
            done
        done
    done
}

glibc_list() { find "$src/bin" -type f ! -name '*.so'; }

# Open POSIX: not what changes the clock or priorities.
posix_build() {
    cd "$src" && make autotools && ./configure && make generate-makefiles && make -C lib
    make -k -C conformance/interfaces all
    make -k -C functional all
}

posix_list() {
    find "$src/conformance/interfaces" "$src/functional/threads" "$src/functional/semaphores" -name '*.run-test' |
        grep -vE 'clock_settime|timer_|mq_|aio_|lio_|sched|difftime|asctime|/ctime|gmtime|localtime|mktime|strftime|/time/|speculative|prioceiling|setschedprio|nanosleep'
}

ltp_folders() {
    cd "$src/testcases/kernel" && ls -d $(printf 'syscalls/%s ' fork vfork clone clone3 mmap munmap mremap madvise \
        mprotect brk sbrk mlock mlock2 mlockall munlock munlockall getrlimit setrlimit mincore msync exit exit_group \
        execve waitpid wait4 wait kill sigaction rt_sigaction sigaltstack setpgid futex membarrier memfd_create pipe \
        select poll eventfd epoll_wait prctl ptrace signal sigprocmask remap_file_pages) \
        $(printf 'mem/%s ' mmapstress page shmt vmtests vma mtest05 mtest07) sched/nptl sched/pthreads
}

ltp_build() {
    cd "$src" && make autotools && ./configure && make -C lib && make -C libs
    for folder in $(ltp_folders); do make -k -C "$src/testcases/kernel/$folder"; done
}

# Not those that poison pages or change kernel settings.
ltp_list() {
    for folder in $(ltp_folders); do
        find "$src/testcases/kernel/$folder" -type f -executable ! -name '*.*' ! -name '*_child' ! -name '*dummy' \
            ! -name 'madvise0[6-9]' ! -name madvise11 ! -name fork13 ! -name fork_procs
    done
}

postgres_build() {
    cd "$src" && ./configure --without-readline --without-zlib --without-icu && make world-bin
}

postgres_run() {
    for folder in regress isolation; do
        cd "$src/src/test/$folder" && LD_PRELOAD=$library make -s check |
            grep -E '\.\.\. (ok|FAILED)|tests (passed|failed)' | sed -E 's/ *[0-9]+ ms$//'
    done
}

redis_build() { make -C "$src" MALLOC=libc BUILD_TLS=no; }

redis_run() {
    cd "$src" && set --
    for file in tests/unit/*.tcl tests/unit/type/*.tcl tests/integration/rdb.tcl tests/integration/aof.tcl \
        tests/integration/convert-zipmap-hash-on-load.tcl tests/integration/logging.tcl \
        tests/integration/redis-cli.tcl; do
        case $file in */geo.* | */hyperloglog.* | */tls.* | */violations.* | */printver.* | */oom-score-adj.*) continue ;; esac
        file=${file#tests/}
        set -- "$@" --single "${file%.tcl}"
    done
    LD_PRELOAD=$library ./runtest --clients 1 --tags -slow "$@" |
        sed -E 's/\x1b\[[0-9;]*m//g; s/ \([0-9]+ ms\)$//' | grep -aE '^\[(ok|err|exception|ignore|skip)'
}

one() {
    name=$(basename "$src")
    folder=$HZ3_SUITES_RUN/$name
    rm -rf "$folder" && mkdir -p "$folder" && cd "$folder" || exit
    case $name in
    mmapstress06) set -- 5 ;;
    mmapstress07) set -- "$folder/file" ;;
    mmapstress09 | mmapstress10) set -- -p 4 -t 0.1 ;;
    shm_test) set -- -l 3 -t 2 ;;
    *) set -- ;;
    esac
    timeout -k 5 120 env LD_LIBRARY_PATH="$(dirname "$src")" TMPDIR="$folder" PATH="$(dirname "$src"):$PATH" \
        LD_PRELOAD="$library" "$src" "$@" >out 2>&1 </dev/null
    echo "$? $name"
}

case $what:$suite in
one:*) one ;;
build:*) "${suite}_build" ;;
run:postgres | run:redis) "${suite}_run" ;;
run:*)
    HZ3_SUITES_RUN=$src/hz3-run
    export HZ3_SUITES_RUN
    "${suite}_list" | xargs -P "${JOBS:-2}" -I {} sh "$self" one "$suite" {} "$library" | sort -k 2
    ;;
esac
