//! What tensor cores take and give: fragments of `mma.sync`.
//!
//! Lane l of a warp is written (g, t) = (l / 4, l % 4). An accumulator tile of 16 x 8 gives a lane the
//! elements (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1): PTX ISA 9.7.14.5.8. `wgmma` repeats that for
//! the four warps of a group (rows 16w ..) and along the columns (8j ..): 9.7.15.5.

use inkwell::types::BasicMetadataTypeEnum;
use inkwell::values::{BasicMetadataValueEnum, BasicValueEnum};

use super::emit::{Emit, Float, Int, Var};

/// A 16-byte piece of a row: eight bf16, two a word.
pub type Chunk<'c> = [Int<'c>; 4];

impl<'c> Emit<'c> {
    /// Two f32 as bf16, `low` in the low half.
    pub fn pack_bf16(&self, low: Float<'c>, high: Float<'c>) -> Int<'c> {
        let (f32, i32) = (self.f32(), self.i32());
        let ty = i32.fn_type(&[f32.into(), f32.into()], false);
        let text = "cvt.rn.bf16x2.f32 $0, $1, $2;";
        self.asm(ty, text, "=r,f,f", false, &[high.into(), low.into()]).into_int_value()
    }

    /// Stores four matrices of 8 x 8 of 16 bits turned: `stmatrix.trans`. Word m of lane (g, t) has elements (g, 2t), (g, 2t + 1) of matrix
    /// m, whose column c goes to the 16 bytes of shared memory at `to` of lane `8 m + c` (PTX ISA 9.7.14.5.16).
    pub fn store_matrices_turned(&self, to: Int<'c>, words: &[Int<'c>; 4]) {
        let [a, b, c, d] = *words;
        let text = "stmatrix.sync.aligned.m8n8.x4.trans.shared::cta.b16 [$0], {$1, $2, $3, $4};";
        self.effect(text, "r,r,r,r,r", &[to, a, b, c, d]);
    }

    /// `a b + c` of two bf16 a word.
    pub fn fma_bf16(&self, a: Int<'c>, b: Int<'c>, c: Int<'c>) -> Int<'c> {
        let i32 = self.i32();
        let ty = i32.fn_type(&[i32.into(); 3], false);
        let args = [a, b, c].map(BasicMetadataValueEnum::from);
        self.asm(ty, "fma.rn.bf16x2 $0, $1, $2, $3;", "=r,r,r,r", false, &args).into_int_value()
    }

    /// `a & b | c` in one instruction, which a compiler that sees two constants makes two of.
    pub fn and_or(&self, a: Int<'c>, b: Int<'c>, c: Int<'c>) -> Int<'c> {
        let i32 = self.i32();
        let ty = i32.fn_type(&[i32.into(); 3], false);
        let args = [a, b, c].map(BasicMetadataValueEnum::from);
        self.asm(ty, "lop3.b32 $0, $1, $2, $3, 0xea;", "=r,r,r,r", false, &args).into_int_value()
    }

    /// The f16 in the low half of a word.
    pub fn half_float(&self, word: Int<'c>) -> Float<'c> {
        let ty = self.f32().fn_type(&[self.i32().into()], false);
        let text = "{ .reg .b16 low, high; mov.b32 {low, high}, $1; cvt.f32.f16 $0, low; }";
        self.asm(ty, text, "=f,r", false, &[word.into()]).into_float_value()
    }

    /// `d += a b` of 16 x 16 by 16 x 8 in bf16 with f32 sums: `mma.sync.m16n8k16`. `a` holds rows (g, g + 8) of
    /// the lane's first pair of columns, then of its second; `b` the column's two pairs.
    pub fn mma(&self, d: &[Var<'c>], a: [Int<'c>; 4], b: [Int<'c>; 2]) {
        let (f32, i32) = (self.f32(), self.i32());
        let mut params: Vec<BasicMetadataTypeEnum<'c>> = vec![i32.into(); 6];
        params.extend(vec![BasicMetadataTypeEnum::from(f32); 4]);
        let ty = self.structure(&[f32.into(); 4]).fn_type(&params, false);
        let text = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {$0, $1, $2, $3}, \
                    {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};";
        let mut args: Vec<BasicMetadataValueEnum<'c>> = a.iter().chain(&b).map(|x| (*x).into()).collect();
        args.extend(d.iter().map(|d| BasicMetadataValueEnum::from(self.get_float(*d))));
        let sums = self.asm(ty, text, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", false, &args);
        for (d, sum) in d.iter().zip(self.fields(sums, 4)) {
            self.set(*d, sum);
        }
    }

    /// `a b + c` of 16 x 32 by 32 x 8 signed bytes with sums of 32 bits: `mma.sync.m16n8k32`. `a` holds four bytes of rows (g, g + 8) of
    /// columns 4t .., then of columns 16 + 4t ..; `b` the same two of column g (PTX ISA 9.7.14.5.10).
    pub fn mma_bytes(&self, a: [Int<'c>; 4], b: [Int<'c>; 2], c: Chunk<'c>) -> Chunk<'c> {
        let i32 = self.i32();
        let ty = self.structure(&[i32.into(); 4]).fn_type(&[i32.into(); 10], false);
        let text = "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {$0, $1, $2, $3}, \
                    {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};";
        let args: Vec<BasicMetadataValueEnum<'c>> =
            a.iter().chain(&b).chain(&c).map(|x| (*x).into()).collect();
        self.four(self.asm(ty, text, "=r,=r,=r,=r,r,r,r,r,r,r,r,r,r,r", false, &args))
    }

    /// The four words that inline PTX gives.
    pub(super) fn four(&self, of: BasicValueEnum<'c>) -> Chunk<'c> {
        self.fields(of, 4)
            .map(BasicValueEnum::into_int_value)
            .collect::<Vec<_>>()
            .try_into()
            .unwrap_or_else(|_| unreachable!("four results were asked for"))
    }
}
