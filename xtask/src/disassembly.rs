//! Disassembly: the instructions of a library as `objdump -d --no-show-raw-insn -M intel` prints
//! them (x86-64), and the cost of a path through a function.
//!
//! The hit path of a function is the longest way from its entry to a `ret` that never leaves the
//! function: a call, a jump to another function or through a pointer, and a loop all end a way
//! without a `ret`. Where both sides of a branch are such ways, the dearer one counts.

use regex_lite::Regex;
use std::collections::HashMap;
use std::fmt;

/// One machine instruction.
#[derive(Clone, Debug)]
pub struct Instruction {
    address: u64,
    /// The number of the function it belongs to, in the order of the listing.
    function: usize,
    /// Whether a `lock` prefix stands before it.
    lock: bool,
    mnemonic: String,
    operands: String,
}

/// What an instruction's place in the control flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// The next instruction follows.
    Next,
    /// A conditional jump.
    Branch(Target),
    /// An unconditional jump.
    Jump(Target),
    Call,
    Return,
    /// `ud2`, `hlt`, `int3`: nothing follows.
    Trap,
}

/// Where a jump leads: an address, or a place known only at run time.
type Target = Option<u64>;

impl Instruction {
    fn flow(&self) -> Flow {
        match self.mnemonic.as_str() {
            "ret" | "retf" | "iret" | "iretq" => Flow::Return,
            "call" => Flow::Call,
            "jmp" => Flow::Jump(self.target()),
            "ud2" | "hlt" | "int3" => Flow::Trap,
            mnemonic if mnemonic.starts_with('j') || mnemonic.starts_with("loop") => Flow::Branch(self.target()),
            _ => Flow::Next,
        }
    }

    fn target(&self) -> Target {
        let first = self.operands.split_whitespace().next()?;
        u64::from_str_radix(first.trim_start_matches("0x"), 16).ok()
    }

    /// Splits the operands at the commas outside brackets.
    fn operand_list(&self) -> impl Iterator<Item = &str> {
        self.operands.split(',').map(str::trim).filter(|operand| !operand.is_empty())
    }

    fn memory(&self) -> MemoryUse {
        let names_memory = |operand: &str| {
            operand.contains('[') || ["cs:", "ds:", "es:", "fs:", "gs:", "ss:"].iter().any(|s| operand.contains(s))
        };
        let mnemonic = self.mnemonic.as_str();
        match mnemonic {
            // An address that is computed, hinted at or ignored is not an access.
            "lea" | "nop" | "endbr64" => return MemoryUse::default(),
            mnemonic if mnemonic.starts_with("prefetch") => return MemoryUse::default(),
            _ => {}
        }
        let mut memory = MemoryUse::default();
        for (position, operand) in self.operand_list().enumerate() {
            if !names_memory(operand) {
                continue;
            }
            let destination = position == 0;
            let only_read = matches!(mnemonic, "cmp" | "test" | "bt" | "push" | "call" | "jmp")
                || mnemonic.contains("comis")
                || mnemonic == "ptest";
            let only_written = mnemonic.starts_with("mov") || mnemonic.starts_with("set") || mnemonic == "pop";
            memory.loads += usize::from(!destination || !only_written);
            memory.stores += usize::from(destination && !only_read);
            // `xchg` with memory locks the bus without a prefix.
            memory.atomic |= mnemonic == "xchg";
        }
        memory.stores += usize::from(matches!(mnemonic, "push" | "pushf" | "pushfq"));
        memory.loads += usize::from(matches!(mnemonic, "pop" | "popf" | "popfq"));
        memory.atomic |= self.lock || mnemonic == "mfence";
        memory
    }

    /// Whether it moves the stack pointer, which only a function with a stack frame does.
    fn moves_stack(&self) -> bool {
        matches!(self.mnemonic.as_str(), "push" | "pop" | "pushf" | "pushfq" | "popf" | "popfq" | "enter" | "leave")
            || (self.operand_list().next() == Some("rsp") && !matches!(self.mnemonic.as_str(), "cmp" | "test"))
    }
}

impl fmt::Display for Instruction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lock = if self.lock { "lock " } else { "" };
        write!(formatter, "{:x}: {lock}{} {}", self.address, self.mnemonic, self.operands)
    }
}

/// The memory accesses of one instruction.
#[derive(Default)]
struct MemoryUse {
    loads: usize,
    stores: usize,
    atomic: bool,
}

/// What a path costs. The `ret` counts as an instruction, its load of the return address does not
/// count as a load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Instructions executed.
    pub instructions: usize,
    /// Conditional jumps among them.
    pub branches: usize,
    /// Memory reads.
    pub loads: usize,
    /// Memory writes.
    pub stores: usize,
    /// Locked operations and full fences.
    pub atomics: usize,
}

/// A way through a function that ends in `ret`.
#[derive(Debug)]
pub struct Path<'a> {
    /// The instructions in the order in which they run.
    pub instructions: Vec<&'a Instruction>,
}

impl Path<'_> {
    /// Sums up the path.
    pub fn cost(&self) -> Cost {
        let mut cost = Cost { instructions: self.instructions.len(), ..Cost::default() };
        for instruction in &self.instructions {
            let memory = instruction.memory();
            cost.branches += usize::from(matches!(instruction.flow(), Flow::Branch(_)));
            cost.loads += memory.loads;
            cost.stores += memory.stores;
            cost.atomics += usize::from(memory.atomic);
        }
        cost
    }

    /// Whether any instruction moves the stack pointer.
    pub fn has_stack_frame(&self) -> bool {
        self.instructions.iter().any(|instruction| instruction.moves_stack())
    }
}

/// All instructions of a listing, by address.
pub struct Disassembly {
    instructions: Vec<Instruction>,
    index: HashMap<u64, usize>,
}

impl Disassembly {
    /// Reads objdump's listing; lines that are no instruction are skipped.
    pub fn parse(listing: &str) -> Disassembly {
        let label = Regex::new(r"^[0-9a-f]+ <.*>:$").expect("valid pattern");
        let line_pattern = Regex::new(r"^\s*([0-9a-f]+):\s+(\S.*)$").expect("valid pattern");
        let mut instructions = Vec::new();
        let mut function = 0;
        for line in listing.lines() {
            if label.is_match(line) {
                function += 1;
            } else if let Some(parts) = line_pattern.captures(line)
                && let Ok(address) = u64::from_str_radix(&parts[1], 16)
                && let Some((lock, mnemonic, operands)) = split(&parts[2])
            {
                instructions.push(Instruction { address, function, lock, mnemonic, operands });
            }
        }
        let index = instructions.iter().enumerate().map(|(i, instruction)| (instruction.address, i)).collect();
        Disassembly { instructions, index }
    }

    /// The hit path of the function at `entry`; `None` when no way through it reaches a `ret`
    /// without leaving it, or when nothing is at `entry`.
    pub fn hit_path(&self, entry: u64) -> Option<Path<'_>> {
        let start = *self.index.get(&entry)?;
        let mut ways = Ways { listing: self, function: self.instructions[start].function, known: HashMap::new() };
        ways.longest_from(start)?;
        let mut instructions = vec![&self.instructions[start]];
        let mut at = start;
        while let Some(Some(Way { next: Some(next), .. })) = ways.known.get(&at) {
            at = *next;
            instructions.push(&self.instructions[at]);
        }
        Some(Path { instructions })
    }
}

/// The longest way to a `ret` from an instruction: its length, and the instruction after this one.
#[derive(Clone, Copy)]
struct Way {
    length: usize,
    next: Option<usize>,
}

/// The search for the longest way, with what it has found so far. An instruction that is still
/// being searched is known as a dead end, which makes every loop one.
struct Ways<'a> {
    listing: &'a Disassembly,
    function: usize,
    known: HashMap<usize, Option<Way>>,
}

impl Ways<'_> {
    fn longest_from(&mut self, at: usize) -> Option<Way> {
        if let Some(&known) = self.known.get(&at) {
            return known;
        }
        self.known.insert(at, None);
        let followers = match self.listing.instructions[at].flow() {
            Flow::Return => {
                let way = Some(Way { length: 1, next: None });
                self.known.insert(at, way);
                return way;
            }
            Flow::Call | Flow::Trap => vec![],
            Flow::Next => vec![Some(at + 1)],
            Flow::Jump(target) => vec![self.instruction_at(target)],
            Flow::Branch(target) => vec![Some(at + 1), self.instruction_at(target)],
        };
        let mut way: Option<Way> = None;
        for next in followers.into_iter().flatten() {
            let same_function = self.listing.instructions.get(next).is_some_and(|next| next.function == self.function);
            if same_function
                && let Some(rest) = self.longest_from(next)
                && way.is_none_or(|way| way.length <= rest.length)
            {
                way = Some(Way { length: rest.length + 1, next: Some(next) });
            }
        }
        self.known.insert(at, way);
        way
    }

    fn instruction_at(&self, target: Target) -> Option<usize> {
        self.listing.index.get(&target?).copied()
    }
}

/// Splits an instruction's text into the lock prefix, the mnemonic and the operands. Prefixes that
/// change neither flow nor memory use are dropped.
fn split(text: &str) -> Option<(bool, String, String)> {
    // Comments name what an address means, angle brackets the symbol a jump leads to.
    let text = text.split(['#', '<']).next()?.trim();
    let mut rest = text;
    let mut lock = false;
    loop {
        let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        match word {
            "lock" | "xacquire" | "xrelease" => lock = true,
            "bnd" | "notrack" | "data16" | "rep" | "repz" | "repnz" | "cs" | "ds" | "es" | "fs" | "gs" | "ss" => {}
            "" => return None,
            mnemonic => return Some((lock, mnemonic.to_owned(), after.trim().to_owned())),
        }
        rest = after.trim_start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "
library.so:     file format elf64-x86-64

Disassembly of section .text:

0000000000001120 <malloc>:
    1120:\tcmp    rdi,0x8000
    1127:\tja     1150 <malloc+0x30>
    1129:\tmov    rax,QWORD PTR [rip+0x2ea8]        # 3fd8 <_DYNAMIC+0x1a8>
    1130:\tmov    rax,QWORD PTR fs:[rax]
    1134:\tmov    rdx,QWORD PTR [rax]
    1137:\tcmp    rdx,QWORD PTR [rax+0x8]
    113b:\tje     1150 <malloc+0x30>
    113d:\tlea    rcx,[rdx-0x8]
    1141:\tmov    QWORD PTR [rax],rcx
    1144:\tmov    rax,QWORD PTR [rdx-0x8]
    1148:\tret
    1149:\tnop    DWORD PTR [rax+0x0]
    1150:\tjmp    1040 <fields::slow@plt>
    1155:\tdata16 cs nop WORD PTR [rax+rax*1+0x0]

0000000000001160 <free>:
    1160:\ttest   rdi,rdi
    1163:\tje     11a8 <free+0x48>
    1165:\tpush   rbx
    1166:\tlock xadd DWORD PTR [rdi+0x4],eax
    116b:\tinc    DWORD PTR [rdi]
    116d:\tjne    1180 <slow_free>
    116f:\tpop    rbx
    1170:\tret
    11a8:\tret

0000000000001180 <slow_free>:
    1180:\tsub    rsp,0x8
    1184:\tcall   1120 <malloc>
    1189:\tadd    rsp,0x8
    118d:\tret

0000000000001190 <looping>:
    1190:\tdec    rdi
    1193:\tjne    1190 <looping>
    1195:\tjmp    QWORD PTR [rip+0x10]        # 11ab <free+0x3>
";

    fn path(entry: u64) -> Option<Cost> {
        Disassembly::parse(LISTING).hit_path(entry).map(|path| path.cost())
    }

    #[test]
    fn the_hit_path_avoids_the_branches_that_leave_the_function() {
        let expected = Cost { instructions: 11, branches: 2, loads: 5, stores: 1, atomics: 0 };
        assert_eq!(path(0x1120), Some(expected));
    }

    #[test]
    fn of_two_ways_to_a_return_the_dearer_one_counts() {
        let expected = Cost { instructions: 8, branches: 2, loads: 3, stores: 3, atomics: 1 };
        assert_eq!(path(0x1160), Some(expected));
    }

    #[test]
    fn a_push_or_a_moved_stack_pointer_is_a_stack_frame() {
        let listing = Disassembly::parse(LISTING);
        assert!(!listing.hit_path(0x1120).unwrap().has_stack_frame());
        assert!(listing.hit_path(0x1160).unwrap().has_stack_frame());
        let frame = Disassembly::parse("10 <f>:\n 10:\tsub    rsp,0x8\n 14:\tret\n");
        assert!(frame.hit_path(0x10).unwrap().has_stack_frame());
    }

    #[test]
    fn a_way_through_a_call_a_pointer_or_another_function_is_no_hit_path() {
        assert_eq!(path(0x1180), None);
        assert_eq!(path(0x1190), None);
        assert_eq!(path(0x9999), None);
    }

    #[test]
    fn each_form_of_memory_access_is_counted() {
        let cases = [
            ("lea rax,[rdi+0x8]", 0, 0, 0),
            ("prefetcht0 BYTE PTR [rdi]", 0, 0, 0),
            ("movzx eax,BYTE PTR [rdi]", 1, 0, 0),
            ("mov QWORD PTR fs:0x10,rax", 0, 1, 0),
            ("movups XMMWORD PTR [rdi],xmm0", 0, 1, 0),
            ("add rax,QWORD PTR fs:[rdx]", 1, 0, 0),
            ("add QWORD PTR [rdi],0x1", 1, 1, 0),
            ("cmp QWORD PTR [rdi],rax", 1, 0, 0),
            ("test BYTE PTR [rdi],0x1", 1, 0, 0),
            ("push QWORD PTR [rdi]", 1, 1, 0),
            ("xchg QWORD PTR [rdi],rax", 1, 1, 1),
            ("xchg ax,ax", 0, 0, 0),
            ("lock cmpxchg QWORD PTR [rdi],rsi", 1, 1, 1),
            ("mfence", 0, 0, 1),
            ("bnd jmp 20 <fields::f>", 0, 0, 0),
        ];
        for (text, loads, stores, atomics) in cases {
            let (lock, mnemonic, operands) = split(text).unwrap();
            let instruction = Instruction { address: 0, function: 0, lock, mnemonic, operands };
            let cost = Path { instructions: vec![&instruction] }.cost();
            assert_eq!((cost.loads, cost.stores, cost.atomics), (loads, stores, atomics), "{text}");
        }
    }
}
