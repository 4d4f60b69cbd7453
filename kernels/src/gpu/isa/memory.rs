//! Loads and stores.

use hyc_plan::Elem;
use inkwell::AddressSpace;
use inkwell::types::BasicTypeEnum;
use inkwell::values::{BasicValue, BasicValueEnum};

use super::emit::{Emit, Float, Int, Ptr, SHARED, ok};
use super::mma::Chunk;

impl<'c> Emit<'c> {
    // Memory.

    pub(super) fn bytes(&self, base: Ptr<'c>, offset: u64) -> Ptr<'c> {
        let offset = self.context.i64_type().const_int(offset, false);
        self.element(self.context.i8_type().into(), base, offset)
    }

    pub(super) fn element(&self, ty: BasicTypeEnum<'c>, base: Ptr<'c>, index: Int<'c>) -> Ptr<'c> {
        // SAFETY: building the instruction reads nothing; what it addresses is the kernel's contract.
        ok(unsafe { self.b.build_gep(ty, base, &[index], "") })
    }

    /// base + index elements of 4 bytes.
    pub fn at(&self, base: Ptr<'c>, index: Int<'c>) -> Ptr<'c> {
        self.element(self.context.i32_type().into(), base, index)
    }

    /// base + index elements.
    pub fn at_elem(&self, elem: Elem, base: Ptr<'c>, index: Int<'c>) -> Ptr<'c> {
        let ty: BasicTypeEnum<'c> = match elem {
            Elem::Bf16 => self.context.i16_type().into(),
            Elem::F32 | Elem::I32 => self.context.i32_type().into(),
        };
        self.element(ty, base, index)
    }

    /// base[index] of f32.
    pub fn load(&self, base: Ptr<'c>, index: Int<'c>) -> Float<'c> {
        ok(self.b.build_load(self.context.f32_type(), self.at(base, index), "")).into_float_value()
    }

    /// base[index] of i32.
    pub fn load_int(&self, base: Ptr<'c>, index: Int<'c>) -> Int<'c> {
        ok(self.b.build_load(self.context.i32_type(), self.at(base, index), "")).into_int_value()
    }

    /// The same of global memory that another launch may write at the same time, or has written since this one read it.
    pub fn load_int_anew(&self, base: Ptr<'c>, index: Int<'c>) -> Int<'c> {
        let ty = self.i32().fn_type(&[self.i64().into()], false);
        let address = self.address(self.at(base, index));
        self.asm(ty, "ld.relaxed.gpu.global.b32 $0, [$1];", "=r,l,~{memory}", true, &[address.into()])
            .into_int_value()
    }

    /// base[index] of i64.
    pub fn load_long(&self, base: Ptr<'c>, index: Int<'c>) -> Int<'c> {
        let ty = self.context.i64_type();
        ok(self.b.build_load(ty, self.element(ty.into(), base, index), "")).into_int_value()
    }

    /// base[index] = value of i64.
    pub fn store_long(&self, base: Ptr<'c>, index: Int<'c>, value: Int<'c>) {
        ok(self.b.build_store(self.element(self.context.i64_type().into(), base, index), value));
    }

    /// base[index] = value, f32 or i32.
    pub fn store(&self, base: Ptr<'c>, index: Int<'c>, value: BasicValueEnum<'c>) {
        ok(self.b.build_store(self.at(base, index), value));
    }

    /// base + offset bytes.
    pub fn byte_offset(&self, base: Ptr<'c>, offset: Int<'c>) -> Ptr<'c> {
        self.element(self.context.i8_type().into(), base, offset)
    }

    /// The module's one array of shared memory whose size a launch gives.
    pub(super) fn external_shared(&self, name: &str) -> Ptr<'c> {
        let global = self.module.get_global(name).unwrap_or_else(|| {
            let ty = self.context.i8_type().array_type(0);
            let global = self.module.add_global(ty, Some(AddressSpace::from(SHARED)), name);
            global.set_alignment(1024);
            global
        });
        global.as_pointer_value()
    }

    /// `*base[index] += 1`, and what was there before: i32, in shared or global memory.
    pub fn fetch_add_one(&self, base: Ptr<'c>, index: Int<'c>) -> Int<'c> {
        let order = inkwell::AtomicOrdering::Monotonic;
        let op = inkwell::AtomicRMWBinOp::Add;
        ok(self.b.build_atomicrmw(op, self.at(base, index), self.int(1), order))
    }

    /// `*base[index] |= bits` of i32, in shared or global memory.
    pub fn fetch_or(&self, base: Ptr<'c>, index: Int<'c>, bits: Int<'c>) {
        let order = inkwell::AtomicOrdering::Monotonic;
        let op = inkwell::AtomicRMWBinOp::Or;
        ok(self.b.build_atomicrmw(op, self.at(base, index), bits, order));
    }

    /// An f32's bits.
    pub fn bits(&self, x: Float<'c>) -> Int<'c> {
        ok(self.b.build_bit_cast(x, self.context.i32_type(), "")).into_int_value()
    }

    /// Four f32 or i32 words at `base[index ..]`, aligned to 16 bytes.
    pub fn load4(&self, base: Ptr<'c>, index: Int<'c>) -> [Int<'c>; 4] {
        self.load_words(self.at(base, index))
    }

    /// Two f32 or i32 words, aligned to 8 bytes.
    pub fn load2(&self, at: Ptr<'c>) -> [Int<'c>; 2] {
        self.load_words(at)
    }

    /// Words that are aligned to their size.
    fn load_words<const N: usize>(&self, at: Ptr<'c>) -> [Int<'c>; N] {
        let load = ok(self.b.build_load(self.context.i32_type().vec_type(N as u32), at, ""));
        if let Some(instruction) = load.as_instruction_value() {
            // The instruction is a load, for which this cannot fail.
            let _ = instruction.set_alignment(4 * N as u32);
        }
        let load = load.into_vector_value();
        std::array::from_fn(|i| {
            ok(self.b.build_extract_element(load, self.int(i as u64), "")).into_int_value()
        })
    }

    /// Stores words to `base[index ..]`, aligned to their size: two or four.
    pub fn store_words(&self, base: Ptr<'c>, index: Int<'c>, words: &[Int<'c>]) {
        let ty = self.context.i32_type().vec_type(words.len() as u32);
        let vector = words.iter().enumerate().fold(ty.get_poison(), |vector, (i, word)| {
            ok(self.b.build_insert_element(vector, *word, self.int(i as u64), ""))
        });
        let store = ok(self.b.build_store(self.at(base, index), vector));
        // A store, for which this cannot fail.
        let _ = store.set_alignment(4 * words.len() as u32);
    }

    /// Stores four words to 16 aligned bytes of global memory where `here` (an i1) holds, without a branch.
    pub fn store4_where(&self, here: Int<'c>, to: Ptr<'c>, words: &[Int<'c>; 4]) {
        let [a, b, c, d] = *words;
        let text =
            "{ .reg .pred here; setp.ne.b32 here, $0, 0; @here st.global.v4.b32 [$1], {$2, $3, $4, $5}; }";
        self.effect(text, "r,l,r,r,r,r", &[self.flag(here), self.address(to), a, b, c, d]);
    }

    /// The upper half of an f32's bits as that f32.
    pub fn widen(&self, bits: Int<'c>) -> Float<'c> {
        ok(self.b.build_bit_cast(bits, self.context.f32_type(), "")).into_float_value()
    }

    /// base[index] of f32 or bf16.
    pub fn load_elem(&self, elem: Elem, base: Ptr<'c>, index: Int<'c>) -> Float<'c> {
        if is_word(elem) {
            return self.load(base, index);
        }
        let at = self.at_elem(elem, base, index);
        let half = ok(self.b.build_load(self.context.i16_type(), at, "")).into_int_value();
        let word = ok(self.b.build_int_z_extend(half, self.context.i32_type(), ""));
        self.widen(ok(self.b.build_left_shift(word, self.int(16), "")))
    }

    /// base[index] = value as f32 or as the nearest bf16 (ties to even).
    pub fn store_elem(&self, elem: Elem, base: Ptr<'c>, index: Int<'c>, value: Float<'c>) {
        if is_word(elem) {
            return self.store(base, index, value.into());
        }
        let (f32, i16) = (self.context.f32_type(), self.context.i16_type());
        let ty = i16.fn_type(&[f32.into()], false);
        let half = self.asm(ty, "cvt.rn.bf16.f32 $0, $1;", "=h,f", false, &[value.into()]);
        ok(self.b.build_store(self.at_elem(elem, base, index), half));
    }

    /// The byte at `base` + `at` bytes.
    pub fn load_byte(&self, base: Ptr<'c>, at: Int<'c>) -> Int<'c> {
        let byte =
            ok(self.b.build_load(self.context.i8_type(), self.byte_offset(base, at), "")).into_int_value();
        ok(self.b.build_int_z_extend(byte, self.context.i32_type(), ""))
    }

    /// Stores the last byte of `value` at `base` + `at` bytes.
    pub fn store_byte(&self, base: Ptr<'c>, at: Int<'c>, value: Int<'c>) {
        let byte = ok(self.b.build_int_truncate(value, self.context.i8_type(), ""));
        ok(self.b.build_store(self.byte_offset(base, at), byte));
    }

    /// Eight elements from a 16-byte (32-byte for f32) boundary: lanes 0..8 of a panel's half-column, in lane
    /// order; see `Layout::Panels`.
    pub fn load_half(&self, elem: Elem, at: Ptr<'c>) -> [Float<'c>; 8] {
        // Panels are aligned to 16 bytes.
        let words = |at: Ptr<'c>| self.load_words::<4>(at);
        if is_word(elem) {
            let (low, high) = (words(at), words(self.at(at, self.int(4))));
            return std::array::from_fn(|i| self.widen(if i < 4 { low[i] } else { high[i - 4] }));
        }
        let words = words(at);
        let mask = self.int(0xffff_0000);
        std::array::from_fn(|i| {
            let bits = if i < 4 {
                ok(self.b.build_left_shift(words[i], self.int(16), ""))
            } else {
                ok(self.b.build_and(words[i - 4], mask, ""))
            };
            self.widen(bits)
        })
    }

    /// Eight f32 at `base[index ..]`, aligned to 16 bytes, as bf16.
    pub fn load_as_chunk(&self, base: Ptr<'c>, index: Int<'c>) -> Chunk<'c> {
        let values = [self.load4(base, index), self.load4(base, self.add_const(index, 4))].concat();
        let value = |i: usize| self.widen(values[i]);
        [0, 2, 4, 6].map(|i| self.pack_bf16(value(i), value(i + 1)))
    }

    /// Sixteen bytes of global memory at `base` + `at` bytes (i64) + `plus`, past the first cache: they are read once.
    pub fn load_chunk(&self, base: Ptr<'c>, at: Int<'c>, plus: u64) -> Chunk<'c> {
        let text = &format!("ld.global.L1::no_allocate.v4.b32 {{$0, $1, $2, $3}}, [$4+{plus}];");
        let (i32, i64) = (self.i32(), self.i64());
        let result = self.structure(&[i32.into(); 4]);
        let ty = result.fn_type(&[i64.into()], false);
        let address = self.add(self.address(base), at);
        let found = self.asm(ty, text, "=r,=r,=r,=r,l", true, &[address.into()]);
        self.four(found)
    }

    /// One, two or four words (of a boundary of as many) of global memory at address `at` (i64) + `plus` bytes; zeros
    /// unless `place < end`.
    pub fn load_below(
        &self,
        (place, end): (u64, Int<'c>),
        (at, plus): (Int<'c>, u64),
        words: usize,
    ) -> Vec<Int<'c>> {
        let names: Vec<String> = (0..words).map(|i| format!("${i}")).collect();
        let zero: String = names.iter().map(|to| format!("mov.b32 {to}, 0; ")).collect();
        let form = if words == 1 { String::new() } else { format!(".v{words}") };
        let to = if words == 1 { "$0".into() } else { format!("{{{}}}", names.join(", ")) };
        let text = format!(
            "{{ .reg .pred p; setp.gt.s32 p, ${words}, {place}; {zero}@p ld.global{form}.b32 {to}, [${}+{plus}]; }}",
            words + 1
        );
        let result = self.structure(&vec![self.i32().into(); words]);
        let ty = result.fn_type(&[self.i32().into(), self.i64().into()], false);
        let constraints = format!("{}r,l", "=&r,".repeat(words));
        let found = self.asm(ty, &text, &constraints, true, &[end.into(), at.into()]);
        self.fields(found, words).map(BasicValueEnum::into_int_value).collect()
    }

    /// The address of global memory as an i64.
    pub fn address(&self, p: Ptr<'c>) -> Int<'c> {
        self.pointer_int(p, self.i64())
    }

    /// The byte address of shared memory as an i32.
    pub fn shared_address(&self, p: Ptr<'c>) -> Int<'c> {
        self.pointer_int(p, self.i32())
    }

    /// Shared memory of the launch's own size, aligned to 1024 bytes: a launch asks for [`SHARED_SLACK`] more than
    /// it uses.
    pub fn dynamic_shared(&self) -> Ptr<'c> {
        let base = self.external_shared("hyc_dynamic_shared");
        let at = self.shared_address(base);
        let skip = self.and(self.sub(self.int(0), at), self.int(1023));
        self.byte_offset(base, skip)
    }

    /// Keeps the bits of `mask` in a word of shared memory.
    pub fn mask_shared(&self, at: Int<'c>, mask: Int<'c>) {
        let text = "{ .reg .b32 x; ld.shared.b32 x, [$0]; and.b32 x, x, $1; st.shared.b32 [$0], x; }";
        self.effect(text, "r,r", &[at, mask]);
    }
}

/// What the alignment of dynamic shared memory may cost.
pub const SHARED_SLACK: u64 = 1024;

/// Whether an element is a word that is read as an f32, and not a bf16. Weights and caches of i32 are refused.
fn is_word(elem: Elem) -> bool {
    match elem {
        Elem::F32 | Elem::I32 => true,
        Elem::Bf16 => false,
    }
}
