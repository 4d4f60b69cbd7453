//! A compiled model as a relocatable object, for a program's linker.
//!
//! It has two global symbols, hidden, so that a shared library does not hand them on, and no relocations:
//!
//! - `NAME_hyc_code` in `.text`, byte for byte what an artefact's code tensor is, so that the plan's offsets hold; inside it
//!   a local symbol a kernel, for debuggers and profilers. Empty for a GPU.
//! - `NAME_hyc_artefact` in `.rodata`, an artefact without that tensor: plan, texts, and the weights where they are
//!   embedded.

use hyc_plan::artefact::ALIGN;
use hyc_plan::eval::EvalGates;
use hyc_plan::sampling::SamplingDefaults;
use hyc_plan::{Code, Plan};
use object::read::{Object as _, ObjectSymbol as _};
use object::write::{Object, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope, elf,
};

use crate::error::{Error, ErrorKind, Result};
use crate::source::Weights;
use crate::text::Text;
use crate::write::{Artefact, artefact_bytes};

/// Most bytes of an object: what lies behind 2 GiB a linker's 32-bit distances do not reach.
pub const MOST_BYTES: u64 = 1 << 30;

/// Whether symbols may begin with a name: a letter or `_`, then letters, digits and `_`, 64 at most.
pub fn is_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(letter) && name.len() <= 64 && name.chars().all(|c| letter(c) || c.is_ascii_digit())
}

/// A name for the symbols of a model of this name.
pub fn name_of(model: &str) -> String {
    let plain: String =
        model.chars().take(60).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if is_name(&plain) { plain } else { format!("m_{plain}") }
}

/// What is linked, beside the weights.
pub struct Model<'a> {
    /// The plan, with the kernels' places in the code.
    pub plan: &'a Plan,
    /// The code of all kernels: see [`crate::driver::generate_code`].
    pub code: &'a [u8],
    /// The tokenizer, with what the model wants of its text.
    pub text: Option<&'a Text>,
    /// How tokens are chosen where nobody says otherwise.
    pub sampling: Option<SamplingDefaults>,
    /// What must hold of the model on a text.
    pub eval: Option<EvalGates>,
}

/// The object of a model and of its weights, where they are not `Absent`. Errors: a name that no symbol can have; an
/// architecture that no code is made for; more than [`MOST_BYTES`]; those of the weights, and of `progress`.
pub fn object(
    name: &str,
    model: &Model<'_>,
    weights: &Weights,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Vec<u8>> {
    let Model { plan, code, text, sampling, eval } = *model;
    if !is_name(name) {
        return Err(Error::new(ErrorKind::Usage, format!("no symbol can be named after `{name}`"))
            .help("take letters, digits and `_`, 64 at most, and no digit first"));
    }
    let embedded = if matches!(weights, Weights::Absent) { 0 } else { 1 };
    let bytes = plan.weights.iter().map(|weight| embedded * weight.bytes()).fold(0, u64::saturating_add);
    if bytes > MOST_BYTES {
        let message = format!("{} MiB are too much to link into a program", bytes >> 20);
        return Err(Error::new(ErrorKind::Unsupported, message)
            .help("leave the weights beside it: `load_with_weights` maps them"));
    }
    let host = plan.target.is_host();
    let (linked, kept) = if host { (code, &[][..]) } else { (&[][..], code) };
    let artefact = Artefact { plan, code: kept, cubin: None, graph: "", asm: "", text, sampling, eval };
    let artefact = artefact_bytes(&artefact, weights, progress)?;
    file(name, plan, &artefact, linked)
}

fn file(name: &str, plan: &Plan, artefact: &[u8], code: &[u8]) -> Result<Vec<u8>> {
    let mut file = Object::new(BinaryFormat::Elf, architecture(plan)?, Endianness::Little);
    let text = file.add_section(Vec::new(), b".text".to_vec(), SectionKind::Text);
    let rodata = file.add_section(Vec::new(), b".rodata".to_vec(), SectionKind::ReadOnlyData);
    // No executable stack.
    file.add_section(Vec::new(), b".note.GNU-stack".to_vec(), SectionKind::Elf(elf::SHT_PROGBITS));
    for (section, what, kind, bytes) in
        [(text, "code", SymbolKind::Text, code), (rodata, "artefact", SymbolKind::Data, artefact)]
    {
        let value = file.append_section_data(section, bytes, ALIGN);
        let name = format!("{name}_hyc_{what}").into_bytes();
        let symbol = Symbol {
            name,
            value,
            size: bytes.len() as u64,
            kind,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        };
        file.add_symbol(symbol);
    }
    for kernel in &plan.kernels {
        let Code::Host { offset, bytes, .. } = kernel.code else { continue };
        file.add_symbol(Symbol {
            name: kernel.name.clone().into_bytes(),
            value: offset,
            size: bytes,
            kind: SymbolKind::Text,
            scope: SymbolScope::Compilation,
            weak: false,
            section: SymbolSection::Section(text),
            flags: SymbolFlags::None,
        });
    }
    file.write().map_err(|e| Error::new(ErrorKind::Internal, format!("object file: {e}")))
}

/// Bytes of the artefact and of the code in an object of [`object()`]. Errors: it is none of this name.
pub fn sizes(name: &str, object: &[u8]) -> Result<(u64, u64)> {
    let wrong = || Error::input(format!("this is no object of a model named `{name}`"));
    let file = object::File::parse(object).map_err(|_| wrong())?;
    let size = |what: &str| {
        let name = format!("{name}_hyc_{what}");
        file.symbol_by_name(&name).map(|symbol| symbol.size()).ok_or_else(wrong)
    };
    Ok((size("artefact")?, size("code")?))
}

/// A GPU's artefact is driven from a processor of this kind.
fn architecture(plan: &Plan) -> Result<Architecture> {
    let arch = match &plan.target {
        hyc_plan::Target::Host { arch, .. } => arch.as_str(),
        hyc_plan::Target::Nvidia(_) => std::env::consts::ARCH,
    };
    match arch {
        "x86_64" => Ok(Architecture::X86_64),
        "aarch64" => Ok(Architecture::Aarch64),
        _ => Err(Error::new(ErrorKind::Unsupported, format!("no object files are made for {arch}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_has_a_name_for_its_symbols() {
        for (model, name) in
            [("tiny-hysparse", "tiny_hysparse"), ("7b", "m_7b"), ("", "m_"), ("größe", "gr__e")]
        {
            assert_eq!(name_of(model), name);
            assert!(is_name(&name_of(model)));
        }
        assert!(!is_name("a-b") && !is_name("1a") && !is_name("") && !is_name(&"a".repeat(65)));
    }
}
