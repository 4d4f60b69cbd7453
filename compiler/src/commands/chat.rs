//! `hyc chat`.

use std::path::PathBuf;

use hyc_runtime::{
    CancelToken, ChatTemplate, Event, Finish, GenerateOptions, LoadOptions, Message, SequenceId, Session,
    Tokenizer, Verify, generate_in,
};

use super::context::Room;
use super::lines::{Line, Lines};
use super::prompt::unescape;
use super::sampling_args::{self, SamplingArgs};
use crate::error::{Error, ErrorKind, Result};
use crate::signal;
use crate::terminal;

/// Talk with a model that has a chat template
///
/// Each line is a message. Ctrl-C ends an answer, Ctrl-D the chat.
///
/// Commands:
///   /retry          answer the last message again, with other draws
///   /undo           forget the last message and its answer
///   /reset          forget the conversation
///   /system TEXT    the same, with another system prompt
///   /exit           the same as Ctrl-D
///   //TEXT          a message that begins with a slash
///
/// Examples:
///   hyc chat model.hyc
///   hyc chat model.hyc --system "Answer in one sentence." --temperature 0.7
///   echo "What is a kernel?" | hyc chat model.hyc -q
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// An artefact
    model: PathBuf,
    /// What the model is told before the conversation, where its template takes that
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// Most new tokens of an answer
    #[arg(short = 'n', long, default_value_t = 1024)]
    max_new_tokens: usize,
    /// End an answer before this text (may be repeated); \n, \r, \t, \u{HEX} and \\ are escapes
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = unescape)]
    stop: Vec<String>,
    /// Print special tokens, too
    #[arg(long)]
    raw: bool,
    /// Most tokens of the whole conversation, for which memory is reserved; without it the model's, up to 32768
    #[arg(long, value_name = "TOKENS")]
    ctx: Option<u64>,
    #[command(flatten)]
    threads: super::ThreadArgs,
    #[command(flatten)]
    gpu: super::GpuArgs,
    /// Do not check the weights' digests
    #[arg(long)]
    fast_load: bool,
    /// No progress, no hints
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
}

pub fn run(args: Args) -> Result<()> {
    signal::install(|| {});
    args.sampling.check()?;
    let verify = if args.fast_load { Verify::Header } else { Verify::OnRead };
    let model = super::load(&args.model, &LoadOptions { verify, ..LoadOptions::default() }, !args.quiet)?;
    let (sampling, seed) = args.sampling.resolve(model.sampling_defaults())?;
    let tokenizer = Tokenizer::of(&model)?;
    let template = ChatTemplate::of(&tokenizer)?;
    let context = context(args.ctx, model.plan().model.max_context)?;
    let options = super::one_sequence(args.threads, &args.gpu, context);
    let mut chat = Chat {
        session: super::session(&model, &options, !args.quiet)?,
        tokenizer: &tokenizer,
        template,
        options: GenerateOptions {
            max_new_tokens: args.max_new_tokens,
            sampling: Some(sampling),
            seed: Some(seed),
            stop: args.stop,
            show_special: args.raw,
            ..GenerateOptions::default()
        },
        context,
        messages: Vec::new(),
        tries: 0,
        sequence: None,
    };
    chat.reset(args.system);
    let mut lines = Lines::of_stdin();
    let ask = lines.is_terminal() && !args.quiet;
    if ask {
        terminal::note(&format!("/exit or Ctrl-D ends the chat{}\n", sampling_args::figure(&sampling, seed)));
    }
    // A person may say something else; a script has no use for half a conversation.
    let spoken = |done: Result<()>| match done {
        Err(error) if ask && error.kind == ErrorKind::Input => {
            terminal::report(&error, false);
            Ok(())
        }
        done => done,
    };
    loop {
        if ask {
            terminal::print("> ")?;
        }
        let line = match lines.next()? {
            Line::Text(line) => line,
            Line::NotText(error) if ask => {
                terminal::report(&error, false);
                continue;
            }
            Line::NotText(error) => return Err(error),
            Line::Interrupted => return Err(Error::new(ErrorKind::Cancelled, "cancelled")),
            Line::End => {
                return if ask { terminal::print("\n") } else { Ok(()) };
            }
        };
        match Input::of(&line) {
            Input::Nothing => {}
            Input::Exit => return Ok(()),
            Input::Reset => chat.reset(chat.system()),
            Input::System(text) => chat.reset(Some(text.to_string()).filter(|text| !text.is_empty())),
            Input::Unknown(word) => terminal::note(&format!("there is no command {word}; {COMMANDS}\n")),
            Input::Undo | Input::Retry if !chat.answered() => terminal::note("there is no answer yet\n"),
            Input::Undo => chat.messages.truncate(chat.messages.len() - 2),
            Input::Retry => spoken(chat.retry())?,
            Input::Message(text) => spoken(chat.answer(text))?,
        }
    }
}

/// Tokens to have memory for. Errors: more than the model's context, or none.
fn context(asked: Option<u64>, max_context: u64) -> Result<u64> {
    match asked {
        None => Ok(max_context.min(32_768)),
        Some(tokens) if (1..=max_context).contains(&tokens) => Ok(tokens),
        Some(tokens) => Err(Error::new(ErrorKind::Usage, format!("--ctx {tokens} is out of range"))
            .help(format!("give 1 to {max_context}, the model's context"))),
    }
}

const COMMANDS: &str = "/retry, /undo, /reset, /system TEXT, /exit";

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Input<'l> {
    Nothing,
    Exit,
    Retry,
    Undo,
    Reset,
    System(&'l str),
    Unknown(&'l str),
    Message(&'l str),
}

impl<'l> Input<'l> {
    fn of(line: &'l str) -> Input<'l> {
        let Some(command) = line.strip_prefix('/') else {
            return if line.trim().is_empty() { Input::Nothing } else { Input::Message(line) };
        };
        if command.starts_with('/') {
            return Input::Message(command);
        }
        let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
        match word.trim_end() {
            "exit" | "quit" => Input::Exit,
            "retry" => Input::Retry,
            "undo" => Input::Undo,
            "reset" => Input::Reset,
            "system" => Input::System(rest.trim()),
            _ => Input::Unknown(line.split_once(' ').map_or(line, |(word, _)| word)),
        }
    }
}

/// A conversation and the sequence that holds its beginning.
struct Chat<'m> {
    session: Session,
    tokenizer: &'m Tokenizer,
    template: ChatTemplate,
    options: GenerateOptions,
    /// Tokens that the session has memory for.
    context: u64,
    /// What was said; behind what the system says a message and its answer each.
    messages: Vec<Message>,
    /// Answers that were asked for again so far: each has a seed of its own.
    tries: u64,
    /// The sequence, with the tokens that it holds.
    sequence: Option<(SequenceId, Vec<u32>)>,
}

impl Chat<'_> {
    fn system(&self) -> Option<String> {
        self.messages
            .first()
            .filter(|message| message.role == "system")
            .map(|message| message.content.clone())
    }

    fn reset(&mut self, system: Option<String>) {
        self.messages = system.map(|text| Message::new("system", text)).into_iter().collect();
        self.tries = 0;
    }

    /// Whether there is an answer, which is the last of the messages.
    fn answered(&self) -> bool {
        self.messages.last().is_some_and(|message| message.role == "assistant")
    }

    /// Takes a message and streams the answer. Errors: as [`generate_in`]; the message is forgotten then. An answer
    /// that Ctrl-C ends is an answer.
    fn answer(&mut self, text: &str) -> Result<()> {
        self.messages.push(Message::new("user", text));
        // An answer that was not finished is part of the conversation all the same: it was read.
        match self.generate() {
            Ok(answer) => self.messages.push(Message::new("assistant", answer)),
            Err(error) => {
                self.messages.pop();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Streams another answer in the place of the last one. Errors: as [`generate_in`]; the last one stays then.
    fn retry(&mut self) -> Result<()> {
        let last = self.messages.pop();
        self.tries += 1;
        let spoken = self.generate();
        self.messages.extend(match &spoken {
            Ok(answer) => Some(Message::new("assistant", answer)),
            Err(_) => last,
        });
        spoken.map(|_| ())
    }

    fn generate(&mut self) -> Result<String> {
        let prompt = self.template.encode(self.tokenizer, &self.messages, true)?;
        let room = Room::behind(prompt.len(), self.options.max_new_tokens, self.context);
        let Some(room) = room.filter(|_| (prompt.len() as u64) < self.context) else {
            let message =
                format!("the conversation has {} tokens, there is room for {}", prompt.len(), self.context);
            return Err(
                Error::new(ErrorKind::Input, message).help("/reset begins anew; `--ctx` asks for more")
            );
        };
        let seed = self.options.seed.map(|seed| seed.wrapping_add(self.tries));
        let options = GenerateOptions { max_new_tokens: room.new_tokens, seed, ..self.options.clone() };
        let id = self.sequence_for(&prompt)?;
        let (cancel, mut broken) = (CancelToken::new(), None);
        let (mut tokens, mut answer) = (prompt.clone(), String::new());
        let done =
            generate_in(&mut self.session, id, self.tokenizer, &prompt, &options, &cancel, &mut |event| {
                match event {
                    Event::Token(token) => tokens.push(token),
                    Event::Text(part) => {
                        broken = broken.take().or(terminal::print(&part).err());
                        answer.push_str(&part);
                    }
                    Event::Prefill { .. } | Event::End(_) => {}
                }
                if signal::pressed() || broken.is_some() {
                    cancel.cancel();
                }
            });
        tokens.truncate(self.session.len(id)? as usize);
        self.sequence = Some((id, tokens));
        // However the answer ended: a Ctrl-C meanwhile was meant for it, and not for the line that comes next.
        signal::forget();
        if let Some(error) = broken {
            return Err(error);
        }
        let done = match done {
            Err(error) if error.kind == hyc_runtime::ErrorKind::Cancelled => None,
            other => Some(other?),
        };
        terminal::print("\n")?;
        match done.map(|done| room.finish(done.finish)) {
            Some(Finish::Length) => terminal::note("(the answer has as many tokens as -n allows)\n"),
            Some(Finish::Context) => terminal::note("(the context is full: /reset begins anew)\n"),
            _ => {}
        }
        Ok(answer)
    }

    /// The sequence with what it holds of the prompt's beginning, all of the prompt but a token at most; a new one where
    /// a ring cache does not reach back that far.
    fn sequence_for(&mut self, prompt: &[u32]) -> Result<SequenceId> {
        if let Some((id, held)) = self.sequence.take() {
            let shared = shared(&held, prompt);
            if shared == held.len() || self.session.truncate(id, shared as u64).is_ok() {
                return Ok(id);
            }
            self.session.remove_sequence(id)?;
        }
        Ok(self.session.add_sequence()?)
    }
}

/// How many tokens `held` and `prompt` begin with alike, of which one of the prompt is left to compute.
fn shared(held: &[u32], prompt: &[u32]) -> usize {
    let most = prompt.len().saturating_sub(1);
    held.iter().zip(&prompt[..most]).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        for (line, input) in [
            ("", Input::Nothing),
            ("  ", Input::Nothing),
            ("/exit", Input::Exit),
            ("/quit ", Input::Exit),
            ("/retry", Input::Retry),
            ("/undo", Input::Undo),
            ("/reset", Input::Reset),
            ("/system  Be brief. ", Input::System("Be brief.")),
            ("/system", Input::System("")),
            ("/nope x", Input::Unknown("/nope")),
            ("/", Input::Unknown("/")),
            ("//etc", Input::Message("/etc")),
            (" /exit", Input::Message(" /exit")),
            ("- hello", Input::Message("- hello")),
        ] {
            assert_eq!(Input::of(line), input, "{line}");
        }
    }

    #[test]
    fn what_a_prompt_shares_leaves_a_token_of_it() {
        for (held, prompt, expected) in [
            (&[][..], &[][..], 0),
            (&[1, 2], &[1, 2, 3], 2),
            (&[1, 2, 3], &[1, 2, 3], 2),
            (&[1, 2, 3, 4], &[1, 2, 3], 2),
            (&[1, 9, 3], &[1, 2, 3], 1),
            (&[9], &[1, 2], 0),
        ] {
            assert_eq!(shared(held, prompt), expected, "{held:?}, {prompt:?}");
        }
    }
}
