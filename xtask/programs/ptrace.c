/* Preloaded into gdb: ptrace(2) without the extended registers (NT_X86_XSTATE). gdb 13 can't write them back on processors
 * with AMX, whose registers it has no room for, and then calls no function; without them it uses the older requests. */

#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PEEK_TEXT = 1, PEEK_USER = 3, GET_REGISTER_SET = 0x4204, SET_REGISTER_SET = 0x4205 };

long ptrace(int request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    pid_t process = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);
    if ((request == GET_REGISTER_SET || request == SET_REGISTER_SET) && (long)address == NT_X86_XSTATE) {
        errno = EIO;
        return -1;
    }
    long word = 0;
    int peeks = request >= PEEK_TEXT && request <= PEEK_USER;
    long result = syscall(SYS_ptrace, request, process, address, peeks ? &word : data);
    if (!peeks || result < 0) {
        return result;
    }
    errno = 0;
    return word;
}
