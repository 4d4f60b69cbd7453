//! What `--emit` makes of a model.

use hyc_ir::text::{Style, print_as};

use super::args::{Args, Emit};
use crate::dot::dot;
use crate::driver::{self, Lowered};
use crate::error::{Error, ErrorKind, Result};
use crate::frontend::ModelDesc;
use crate::object;
use crate::signal;
use crate::source::{Names, Weights};
use crate::text::Text;
use crate::write;

/// What the graph, the plan and the code become.
pub fn render(
    args: &Args,
    form: Emit,
    mut lowered: Lowered,
    (options, style): (&driver::Options, &Style),
) -> Result<Vec<u8>> {
    if args.kernel.is_some()
        && !matches!(form, Emit::Mlir | Emit::Llvm | Emit::Ptx | Emit::Cubin | Emit::Sass)
    {
        return Err(Error::new(
            ErrorKind::Usage,
            "`--kernel` goes with `--emit mlir`, `llvm`, `ptx`, `cubin` or `sass`",
        ));
    }
    Ok(match form {
        Emit::Graph => print_as(&lowered.graph, style).into_bytes(),
        Emit::Dot => dot(&lowered.graph, style.layers.as_ref()).into_bytes(),
        Emit::Plan => write::plan_json(&lowered.plan, true)?.into_bytes(),
        Emit::Mlir | Emit::Llvm | Emit::Ptx => compiled_text(form, &mut lowered, args)?.into_bytes(),
        Emit::Cubin | Emit::Sass => {
            let ptx = compiled_text(Emit::Ptx, &mut lowered, args)?;
            let cubin = args.assembler().cubin(ptx.as_bytes(), lowered.plan.target.kind().name())?;
            if form == Emit::Cubin { cubin } else { args.assembler().sass(&cubin)? }
        }
        Emit::Asm if !lowered.plan.target.is_host() => {
            return Err(Error::new(ErrorKind::Usage, "asm is a form of host code")
                .help("for a GPU: `--emit llvm`, `ptx`, `cubin` or `sass`"));
        }
        Emit::Asm => {
            driver::generate_code(&mut lowered.plan, options.clone(), true, &generating)?.asm.into_bytes()
        }
        Emit::Obj => return Err(Error::new(ErrorKind::Internal, "an object is made of more than the plan")),
    })
}

/// The model as an object file, with its weights where they shall be in it.
pub fn object_of(
    args: &Args,
    mut lowered: Lowered,
    options: &driver::Options,
    (names, text): (&Names, Option<&Text>),
    desc: Option<&ModelDesc>,
) -> Result<Vec<u8>> {
    let code = driver::generate_code(&mut lowered.plan, options.clone(), false, &generating)?;
    let plan = &lowered.plan;
    let weights = if args.embed_weights { args.open_weights(desc, names, plan)? } else { Weights::Absent };
    let (sampling, eval) = (desc.and_then(|desc| desc.sampling), desc.and_then(|desc| desc.eval));
    let name = args.symbol.clone().unwrap_or_else(|| object::name_of(&plan.model.name));
    let model = object::Model { plan, code: &code.blob, text, sampling, eval };
    object::object(&name, &model, &weights, &mut |_| signal::check("packing the weights"))
}

#[cfg(feature = "llvm")]
fn compiled_text(form: Emit, lowered: &mut Lowered, args: &Args) -> Result<String> {
    use crate::emit_gpu::{Form, text};
    let form = match form {
        Emit::Mlir => Form::Mlir,
        Emit::Ptx => Form::Ptx,
        _ => Form::Llvm,
    };
    text(form, lowered, args.kernel.as_deref(), args.wanted())
}

#[cfg(not(feature = "llvm"))]
fn compiled_text(_: Emit, _: &mut Lowered, _: &Args) -> Result<String> {
    Err(Error::new(ErrorKind::Unsupported, "this build of hyc has no MLIR and no LLVM")
        .help("build it with the feature `llvm`: `./build-gpu.sh`"))
}

/// Ctrl-C between two kernels.
pub fn generating() -> Result<()> {
    signal::check("generating code")
}
