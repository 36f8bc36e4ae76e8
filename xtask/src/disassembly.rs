//! Disassembly: the functions of a library as instructions (x86-64), and what a path through one costs.
//!
//! The hit path of a function is the longest way from its entry to a `ret` that never leaves the function: a call, a
//! jump to another function or through a pointer, and a loop all end a way without a `ret`. Where both sides of a
//! branch are such ways, the dearer one counts.
//!
//! What an instruction reads and writes is the decoder's knowledge, the stack slot of a `push` and a `pop` included.
//! Not counted is the return address that a `ret` loads: every path has it.

use anyhow::{Context, Result};
use goblin::elf::program_header::PT_LOAD;
use goblin::elf::{Elf, Sym};
use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path as File;

/// What the stack probes of a large frame touch at a time.
const PROBE_BYTES: u64 = 4096;

/// A library's code and the names of its functions.
pub struct Disassembly {
    bytes: Vec<u8>,
    symbols: Vec<Symbol>,
}

struct Symbol {
    name: String,
    address: u64,
    /// Where its code lies in `bytes`.
    code: Range<usize>,
}

impl Disassembly {
    /// Reads an ELF file.
    ///
    /// # Errors
    /// It can't be read, or is no ELF file.
    pub fn read(file: &File) -> Result<Disassembly> {
        let bytes = std::fs::read(file).with_context(|| format!("{}", file.display()))?;
        let elf = Elf::parse(&bytes).with_context(|| format!("{}", file.display()))?;
        let names = elf.dynsyms.iter().map(|symbol| (elf.dynstrtab.get_at(symbol.st_name), symbol));
        let names = names.chain(elf.syms.iter().map(|symbol| (elf.strtab.get_at(symbol.st_name), symbol)));
        let symbols = names
            .filter(|(_, symbol)| symbol.is_function() && !symbol.is_import())
            .filter_map(|(name, symbol)| {
                let code = code_of(&elf, &symbol).filter(|code| code.end <= bytes.len())?;
                Some(Symbol { name: name?.to_owned(), address: symbol.st_value, code })
            })
            .collect();
        Ok(Disassembly { bytes, symbols })
    }

    /// The functions' symbols, some perhaps twice.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.symbols.iter().map(|symbol| symbol.name.as_str())
    }

    /// The code of a function by its symbol, exported or not; the name is as the linker has it.
    ///
    /// # Errors
    /// The library has no code of that name.
    pub fn function(&self, symbol: &str) -> Result<Function> {
        let found = self.symbols.iter().find(|found| found.name == symbol);
        let Symbol { address, code, .. } = found.with_context(|| format!("there is no function {symbol}"))?;
        Ok(Function::decode(&self.bytes[code.clone()], *address))
    }

    /// How much stack a function takes at most for itself, in bytes; see [`Function::frame_bytes`].
    ///
    /// # Errors
    /// As for [`Self::function`].
    pub fn frame_bytes(&self, symbol: &str) -> Result<u64> {
        Ok(self.function(symbol)?.frame_bytes())
    }
}

/// Where a symbol's code lies in the file; `None` when it has none there.
fn code_of(elf: &Elf<'_>, symbol: &Sym) -> Option<Range<usize>> {
    let address = usize::try_from(symbol.st_value).ok()?;
    let mut segments = elf.program_headers.iter().filter(|header| header.p_type == PT_LOAD);
    let segment = segments.find(|header| header.vm_range().contains(&address))?;
    let start = symbol.st_value.checked_sub(segment.p_vaddr)?.checked_add(segment.p_offset)?;
    let end = start.checked_add(symbol.st_size)?;
    (start < end).then_some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

/// The instructions of one function, in the order of their addresses.
pub struct Function {
    instructions: Vec<Instruction>,
}

impl Function {
    /// Decodes the code that is loaded at `address`.
    pub fn decode(code: &[u8], address: u64) -> Function {
        Function { instructions: Decoder::with_ip(64, code, address, DecoderOptions::NONE).iter().collect() }
    }

    /// The hit path; `None` when no way through the function reaches a `ret` without leaving it.
    pub fn hit_path(&self) -> Option<Path<'_>> {
        let mut ways = Ways::new();
        self.longest_from(0, &mut ways)?;
        let places = std::iter::successors(Some(0), |at| ways.get(at).copied().flatten()?.next);
        Some(Path { instructions: places.map(|at| &self.instructions[at]).collect() })
    }

    fn longest_from(&self, at: usize, ways: &mut Ways) -> Option<Way> {
        if let Some(known) = ways.get(&at) {
            return *known;
        }
        ways.insert(at, None);
        let way = match self.instructions.get(at)?.flow_control() {
            FlowControl::Return => Some(Way { length: 1, next: None }),
            FlowControl::Call | FlowControl::IndirectCall => None,
            _ => {
                let followers = self.followers(at).into_iter().flatten();
                let on = followers.filter_map(|next| Some((self.longest_from(next, ways)?.length, next)));
                on.max_by_key(|&(length, _)| length).map(|(length, next)| Way { length: length + 1, next: Some(next) })
            }
        };
        ways.insert(at, way);
        way
    }

    /// How far the function moves the stack down at most, in bytes: what it pushes and subtracts from the stack
    /// pointer on the way that takes most. The return address, and what the functions that it calls take, come on top.
    pub fn frame_bytes(&self) -> u64 {
        let mut deepest = 0;
        let mut seen = vec![false; self.instructions.len()];
        let mut waiting = vec![(0, 0)];
        while let Some((at, depth)) = waiting.pop() {
            let Some(instruction) = self.instructions.get(at).filter(|_| !seen[at]) else { continue };
            seen[at] = true;
            let depth = depth + stack_taken(instruction);
            deepest = deepest.max(depth);
            if instruction.flow_control() == FlowControl::IndirectBranch {
                // Perhaps a table's: the places that nothing else leads to are taken for its targets, the first first.
                waiting.splice(..0, (0..self.instructions.len()).rev().map(|place| (place, depth)));
            }
            waiting.extend(self.followers(at).into_iter().flatten().map(|next| (next, depth)));
        }
        deepest.unsigned_abs()
    }

    /// The places in the function that may come after an instruction; after a call the one behind it.
    fn followers(&self, at: usize) -> [Option<usize>; 2] {
        let behind = Some(at + 1).filter(|&next| next < self.instructions.len());
        let target = self.instructions[at].near_branch_target();
        let target = self.instructions.binary_search_by_key(&target, Instruction::ip).ok();
        match self.instructions[at].flow_control() {
            FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => [behind, None],
            FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend => [behind, target],
            FlowControl::UnconditionalBranch => [None, target],
            _ => [None, None],
        }
    }
}

/// The longest way to a `ret` from an instruction: its length, and the place of the instruction after this one.
#[derive(Clone, Copy)]
struct Way {
    length: usize,
    next: Option<usize>,
}

/// The ways that the search has found so far. An instruction that is still being searched has none, which makes every
/// loop a dead end.
type Ways = HashMap<usize, Option<Way>>;

/// By how many bytes an instruction moves the stack down; negative when it moves it up.
fn stack_taken(instruction: &Instruction) -> i64 {
    let amount = || instruction.immediate(1).cast_signed();
    let is_of_stack_pointer =
        || instruction.op0_register() == Register::RSP && instruction.op1_kind() != OpKind::Register;
    match instruction.mnemonic() {
        // The return address is the called function's, and gone when it is back.
        Mnemonic::Call | Mnemonic::Ret => 0,
        Mnemonic::Sub if is_of_stack_pointer() => amount(),
        Mnemonic::Add if is_of_stack_pointer() => -amount(),
        // At most: how far an address is from the next multiple.
        Mnemonic::And if is_of_stack_pointer() => !amount(),
        // Before the loop that probes a large frame a page at a time; the loop's own `sub` is seen once.
        Mnemonic::Lea if instruction.op0_register() == Register::R11 && instruction.memory_base() == Register::RSP => {
            let limit = instruction.memory_displacement64().wrapping_neg();
            limit.saturating_sub(PROBE_BYTES).cast_signed()
        }
        _ => -i64::from(instruction.stack_pointer_increment()),
    }
}

/// What a path costs.
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
pub struct Path<'a> {
    /// The instructions in the order in which they run.
    pub instructions: Vec<&'a Instruction>,
}

impl Path<'_> {
    /// Sums up the path.
    pub fn cost(&self) -> Cost {
        use OpAccess::{CondRead, CondWrite, Read, ReadCondWrite, ReadWrite, Write};
        let mut decoder = InstructionInfoFactory::new();
        let mut cost = Cost { instructions: self.instructions.len(), ..Cost::default() };
        for instruction in &self.instructions {
            let flow = instruction.flow_control();
            cost.branches += usize::from(flow == FlowControl::ConditionalBranch);
            let memory = decoder.info(instruction).used_memory();
            let memory = memory.iter().filter(|_| flow != FlowControl::Return).map(|used| used.access());
            let accesses = |kinds: [OpAccess; 4]| memory.clone().filter(|access| kinds.contains(access)).count();
            cost.loads += accesses([Read, CondRead, ReadWrite, ReadCondWrite]);
            cost.stores += accesses([Write, CondWrite, ReadWrite, ReadCondWrite]);
            // `xchg` with memory locks the bus without a prefix.
            let is_locked_exchange = instruction.mnemonic() == Mnemonic::Xchg && memory.clone().count() > 0;
            let is_fence = instruction.mnemonic() == Mnemonic::Mfence;
            cost.atomics += usize::from(instruction.has_lock_prefix() || is_locked_exchange || is_fence);
        }
        cost
    }

    /// Whether any instruction takes stack.
    pub fn has_stack_frame(&self) -> bool {
        self.instructions.iter().any(|instruction| stack_taken(instruction) > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MALLOC: &[u8] = &[
        0x48, 0x81, 0xff, 0x00, 0x80, 0x00, 0x00, // cmp rdi, 0x8000
        0x77, 0x19, // ja out
        0x64, 0x48, 0x8b, 0x00, // mov rax, fs:[rax]
        0x48, 0x8b, 0x10, // mov rdx, [rax]
        0x48, 0x3b, 0x50, 0x08, // cmp rdx, [rax + 8]
        0x74, 0x0c, // je out
        0x48, 0x8d, 0x4a, 0xf8, // lea rcx, [rdx - 8]
        0x48, 0x89, 0x08, // mov [rax], rcx
        0x48, 0x8b, 0x42, 0xf8, // mov rax, [rdx - 8]
        0xc3, // ret
        0xe9, 0x68, 0xff, 0xff, 0xff, // out: jmp to another function
    ];

    const FREE: &[u8] = &[
        0x48, 0x85, 0xff, // test rdi, rdi
        0x74, 0x10, // je nothing
        0x53, // push rbx
        0xf0, 0x0f, 0xc1, 0x47, 0x04, // lock xadd [rdi + 4], eax
        0xff, 0x07, // inc dword ptr [rdi]
        0x0f, 0x85, 0x55, 0xff, 0xff, 0xff, // jne to another function
        0x5b, // pop rbx
        0xc3, // ret
        0xc3, // nothing: ret
    ];

    /// Subtracts 24 from the stack pointer, calls, adds 24, returns.
    const CALLING: &[u8] = &[0x48, 0x83, 0xec, 0x18, 0xe8, 0x00, 0x00, 0x00, 0x00, 0x48, 0x83, 0xc4, 0x18, 0xc3];

    fn cost(code: &[u8]) -> Option<Cost> {
        Function::decode(code, 0x1000).hit_path().map(|path| path.cost())
    }

    fn frame_bytes(code: &[u8]) -> u64 {
        Function::decode(code, 0x1000).frame_bytes()
    }

    #[test]
    fn the_hit_path_avoids_the_branches_that_leave_the_function() {
        let expected = Cost { instructions: 10, branches: 2, loads: 4, stores: 1, atomics: 0 };
        assert_eq!(cost(MALLOC), Some(expected));
    }

    #[test]
    fn of_two_ways_to_a_return_the_dearer_one_counts() {
        let expected = Cost { instructions: 8, branches: 2, loads: 3, stores: 3, atomics: 1 };
        assert_eq!(cost(FREE), Some(expected));
    }

    #[test]
    fn a_way_through_a_call_a_pointer_or_a_loop_is_no_hit_path() {
        assert_eq!(cost(CALLING), None);
        // dec rdi; jne to itself; jmp through a pointer
        assert_eq!(cost(&[0x48, 0xff, 0xcf, 0x75, 0xfb, 0xff, 0x25, 0x10, 0x00, 0x00, 0x00]), None);
        assert_eq!(cost(&[]), None);
    }

    #[test]
    fn a_push_or_a_moved_stack_pointer_is_a_stack_frame() {
        let has_frame = |code| Function::decode(code, 0x1000).hit_path().unwrap().has_stack_frame();
        assert!(!has_frame(MALLOC) && has_frame(FREE));
        assert!(has_frame(&[0x48, 0x83, 0xec, 0x08, 0xc3]));
    }

    #[test]
    fn a_frame_is_what_the_deepest_way_pushes_and_subtracts() {
        assert_eq!(frame_bytes(MALLOC), 0);
        assert_eq!(frame_bytes(FREE), 8);
        assert_eq!(frame_bytes(CALLING), 24);
        // push rbx; jmp rax; sub rsp, 0x20; ret
        assert_eq!(frame_bytes(&[0x53, 0xff, 0xe0, 0x48, 0x83, 0xec, 0x20, 0xc3]), 8 + 32);
        // test rdi, rdi; je to the ret; push rbp; push rbx; sub rsp, 0x1000; and rsp, -64; call; leave; ret
        let late = [
            0x48, 0x85, 0xff, 0x74, 0x13, 0x55, 0x53, 0x48, 0x81, 0xec, 0x00, 0x10, 0x00, 0x00, 0x48, 0x83, 0xe4, 0xc0,
            0xe8, 0x00, 0x00, 0x00, 0x00, 0xc9, 0xc3,
        ];
        assert_eq!(frame_bytes(&late), 16 + 4096 + 63);
        // lea r11, [rsp - 0x5000]; sub rsp, 0x1000; mov [rsp], 0; cmp rsp, r11; jne to the sub; sub rsp, 0x18; ret
        let probed = [
            0x4c, 0x8d, 0x9c, 0x24, 0x00, 0xb0, 0xff, 0xff, 0x48, 0x81, 0xec, 0x00, 0x10, 0x00, 0x00, 0x48, 0xc7, 0x04,
            0x24, 0x00, 0x00, 0x00, 0x00, 0x4c, 0x39, 0xdc, 0x75, 0xec, 0x48, 0x83, 0xec, 0x18, 0xc3,
        ];
        assert_eq!(frame_bytes(&probed), 0x5000 + 0x18);
    }

    #[test]
    fn each_form_of_memory_access_is_counted() {
        let cases: [(&[u8], &str, usize, usize, usize); 18] = [
            (&[0x48, 0x8d, 0x47, 0x08], "lea rax, [rdi + 8]", 0, 0, 0),
            (&[0x0f, 0x18, 0x0f], "prefetcht0 [rdi]", 0, 0, 0),
            (&[0x0f, 0xb6, 0x07], "movzx eax, byte ptr [rdi]", 1, 0, 0),
            (&[0x64, 0x48, 0x89, 0x04, 0x25, 0x10, 0, 0, 0], "mov fs:0x10, rax", 0, 1, 0),
            (&[0x0f, 0x11, 0x07], "movups [rdi], xmm0", 0, 1, 0),
            (&[0x64, 0x48, 0x03, 0x02], "add rax, fs:[rdx]", 1, 0, 0),
            (&[0x48, 0x83, 0x07, 0x01], "add qword ptr [rdi], 1", 1, 1, 0),
            (&[0x48, 0x39, 0x07], "cmp [rdi], rax", 1, 0, 0),
            (&[0xf6, 0x07, 0x01], "test byte ptr [rdi], 1", 1, 0, 0),
            (&[0xff, 0x37], "push qword ptr [rdi]", 1, 1, 0),
            (&[0x5b], "pop rbx", 1, 0, 0),
            (&[0x48, 0x87, 0x07], "xchg [rdi], rax", 1, 1, 1),
            (&[0x66, 0x90], "xchg ax, ax", 0, 0, 0),
            (&[0xf0, 0x48, 0x0f, 0xb1, 0x37], "lock cmpxchg [rdi], rsi", 1, 1, 1),
            (&[0x0f, 0xae, 0xf0], "mfence", 0, 0, 1),
            (&[0x0f, 0x1f, 0x00], "nop dword ptr [rax]", 0, 0, 0),
            (&[0xf3, 0x0f, 0x1e, 0xfa], "endbr64", 0, 0, 0),
            (&[0xc3], "ret", 0, 0, 0),
        ];
        for (code, text, loads, stores, atomics) in cases {
            let function = Function::decode(code, 0x1000);
            assert_eq!(function.instructions.len(), 1, "{text}");
            let cost = Path { instructions: function.instructions.iter().collect() }.cost();
            assert_eq!((cost.loads, cost.stores, cost.atomics), (loads, stores, atomics), "{text}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_real_program_s_function_is_found_by_its_symbol() {
        let own = Disassembly::read(&std::env::current_exe().unwrap()).unwrap();
        assert!(own.function("main").unwrap().instructions.len() > 1);
        assert!(own.frame_bytes("main").unwrap().is_multiple_of(8));
        assert!(own.function("hz3_no_such_function").is_err());
    }
}
