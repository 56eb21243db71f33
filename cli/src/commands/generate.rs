//! `generate`.

use std::io::{BufRead, IsTerminal, Read};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use cpift_model::data::{FilePrompt, Notice, Prompt, PromptMaker, PromptSettings};
use cpift_model::files::write_output;
use cpift_model::generation::{
    Answer, AnsweringProgress, Conversation, Ended, GenerationSettings, Generator, Stop,
};
use cpift_model::hub::ModelParts;
use cpift_model::progress::{EvaluationPhase, EvaluationProgress};
use cpift_model::transformer::{RandomSampling, Sampling};
use cpift_model::{Error, Result};
use serde::Serialize;

use super::Chosen;
use crate::args;
use crate::display::evaluation::Evaluation;
use crate::display::table::shorten;
use crate::display::units::counted;
use crate::display::{self, print_exactly, print_generated, print_json, tell};
use crate::interrupt::AnswerInterrupt;

/// Most tokens of an answer where nothing is said.
const TOKENS_OF_TEXT: usize = 128;
const TOKENS_IN_CONVERSATION: usize = 1024;

/// Longest prompt that is read from standard input, in bytes: as long as a row of a file may be.
const LONGEST_INPUT: u64 = 8 << 20;

/// What is answered.
enum Input {
    /// A prompt, and what a message calls it.
    Prompt(String, &'static str),
    /// The rows of a file.
    File(PathBuf),
    /// What a person types, line by line.
    Conversation,
}

/// What a command works with once the model is loaded.
struct Session<'a> {
    arguments: &'a args::generate::Generate,
    chosen: Chosen,
    generator: Generator,
    interrupt: AnswerInterrupt,
}

/// Lets a model answer.
pub fn run(arguments: &args::generate::Generate, threads: Option<NonZeroUsize>) -> Result<()> {
    let interrupt = AnswerInterrupt::install()?;
    let input = Input::of(arguments)?;
    let chosen = Chosen::open(&arguments.device.device, threads)?;
    let compute = chosen.compute(&arguments.precision)?;
    if let Some(file) = &arguments.out {
        super::eval::check_output(file)?;
    }
    let model = super::model_folder(&arguments.model, ModelParts::ALL)?;
    let generator = Generator::open(&chosen.device, &model, compute)?;
    super::announce_ignored_fields([model.as_path()]);
    let session = Session { arguments, chosen, generator, interrupt };
    let settings = PromptSettings { chat: arguments.chat, system: arguments.system.clone() };
    let prompts = session.generator.prompts(settings)?;
    match input {
        Input::Prompt(text, key) => session.answer_prompt(&prompts, &text, key),
        Input::File(path) => session.answer_file(&prompts, &path),
        Input::Conversation => session.converse(&prompts),
    }
}

impl Input {
    fn of(arguments: &args::generate::Generate) -> Result<Self> {
        if let Some(path) = &arguments.prompts {
            return Ok(Self::File(path.clone()));
        }
        if let Some(prompt) = &arguments.prompt {
            return Ok(Self::Prompt(prompt.clone(), "--prompt"));
        }
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Prompt(standard_input()?, "standard input"));
        }
        match arguments.chat && !arguments.json {
            true => Ok(Self::Conversation),
            false => {
                let reason = "is missing: give --prompt TEXT or --prompts FILE, write the prompt to standard \
                              input, or use --chat for a conversation";
                Err(Error::setting("--prompt", reason))
            }
        }
    }
}

/// All of standard input, without a line break at its end.
fn standard_input() -> Result<String> {
    let refuse = |reason: String| Error::setting("standard input", reason);
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(LONGEST_INPUT + 1).read_to_end(&mut bytes);
    read.map_err(|error| refuse(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > LONGEST_INPUT {
        return Err(refuse("is longer than 8 MiB, the most a prompt may have".to_owned()));
    }
    let mut text = String::from_utf8(bytes)
        .map_err(|error| refuse(format!("is not UTF-8 (byte {})", error.utf8_error().valid_up_to() + 1)))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

impl Session<'_> {
    fn settings(&self, prompts: &PromptMaker<'_>, is_chat: bool) -> Result<GenerationSettings> {
        let args::generate::Generate { temperature, top_k, top_p, seed, .. } = *self.arguments;
        let sampling = match temperature.or((top_k.is_some() || top_p.is_some()).then_some(1.0)) {
            None => Sampling::Greedy,
            Some(temperature) => {
                Sampling::Random(RandomSampling { temperature, top_k, top_p, seed, stream: 0 })
            }
        };
        let end_of_turn = if is_chat { prompts.end_of_turn() } else { None };
        let tokens = if is_chat { TOKENS_IN_CONVERSATION } else { TOKENS_OF_TEXT };
        Ok(GenerationSettings {
            max_new_tokens: self.arguments.max_new_tokens.unwrap_or(tokens),
            sampling,
            stop: Stop::new(self.generator.tokenizer(), end_of_turn, &self.arguments.stop)?,
            together: self.arguments.batch,
        })
    }

    /// Says on standard error what is worth knowing, once nothing is wrong with the input.
    fn announce(&self, notices: &[String]) {
        super::announce_fully(&self.chosen);
        display::notices(self.generator.notices().iter().chain(notices));
    }

    fn answer_prompt(&self, prompts: &PromptMaker<'_>, text: &str, key: &str) -> Result<()> {
        let mut noticed = Vec::new();
        let refuse = |reason| Error::setting(key, reason);
        let prompt = prompts.of_text(text, &mut noticed).map_err(refuse)?;
        self.generator.check_prompt(&prompt.ids).map_err(refuse)?;
        let settings = self.settings(prompts, prompt.is_chat)?;
        self.announce(&noticed.iter().map(ToString::to_string).collect::<Vec<_>>());

        let mut shown = Shown::default();
        self.interrupt.begin();
        let answer = self.generator.stream(&prompt.ids, &settings, &mut |piece| {
            let piece = if self.arguments.json { "" } else { piece };
            shown.piece(piece, &self.interrupt)
        })?;
        self.interrupt.end();
        if shown.reader_is_gone {
            return Ok(());
        }
        if answer.ended == Ended::Interrupted {
            if !self.arguments.json {
                print_exactly("\n")?;
            }
            return Err(Error::Stopped {
                position: format!("after {}", counted(answer.ids.len() as u64, "token")),
            });
        }
        if self.arguments.json {
            return print_json(&Line::new(None, &prompt, &answer));
        }
        print_exactly("\n")?;
        if prompt.is_chat {
            tell_cut(&answer);
        }
        Ok(())
    }

    fn answer_file(&self, prompts: &PromptMaker<'_>, path: &Path) -> Result<()> {
        let (rows, notices) = self.chosen.device.scope(|| prompts.read(path))?;
        for FilePrompt { position, prompt } in &rows {
            let checked = self.generator.check_prompt(&prompt.ids);
            checked.map_err(|reason| position.error(&[path.to_owned()], reason))?;
        }
        let settings = self.settings(prompts, rows.iter().any(|row| row.prompt.is_chat))?;
        self.announce(&notices);

        let title = format!("answering {}", shorten(&path.display().to_string(), 32));
        let mut evaluation = Evaluation::begin(&title, std::io::stderr().is_terminal());
        let bar = evaluation.bar().cloned();
        let mut last = 0;
        let mut observe = |progress: AnsweringProgress| {
            let (done, rows) = (progress.done, progress.prompts);
            if done > last {
                last = done;
                evaluation.update(EvaluationProgress { phase: EvaluationPhase::Answers, done, rows });
            }
            let position = || format!("after {done} of {rows} answers");
            if self.interrupt.is_requested() { Err(Error::Stopped { position: position() }) } else { Ok(()) }
        };
        let mut lines = String::new();
        let mut reader_is_gone = false;
        let mut take = |index: usize, answer: Answer| {
            let FilePrompt { position, prompt } = &rows[index];
            let line = Line::new(Some(position.number), prompt, &answer).json()?;
            if self.arguments.out.is_some() {
                lines.push_str(&line);
                return Ok(());
            }
            let print = || print_generated(&line);
            reader_is_gone = !bar.as_ref().map_or_else(print, |bar| bar.suspend(print))?;
            match reader_is_gone {
                true => {
                    Err(Error::Stopped { position: format!("after {}", counted(index as u64 + 1, "answer")) })
                }
                false => Ok(()),
            }
        };
        self.interrupt.begin();
        let ids: Vec<&[u32]> = rows.iter().map(|row| row.prompt.ids.as_slice()).collect();
        let answered = self.generator.answer_all(&ids, &settings, &mut observe, &mut take);
        self.interrupt.end();
        drop(evaluation);
        if reader_is_gone {
            return Ok(());
        }
        answered?;
        self.arguments.out.as_ref().map_or(Ok(()), |file| write_output(file, lines.as_bytes()))
    }

    /// Answers line by line until the end of standard input.
    fn converse(&self, prompts: &PromptMaker<'_>) -> Result<()> {
        let settings = self.settings(prompts, true)?;
        self.announce(&[]);
        tell("/new forgets what was said, /exit or Ctrl-D ends the conversation, Ctrl-C stops an answer\n");
        let mut conversation = Conversation::new(&self.generator, prompts);
        let mut known_notices = Vec::new();
        while let Some(line) = typed_line()? {
            match line.trim() {
                "" => {}
                "/exit" => break,
                "/new" => conversation.clear(),
                message => {
                    let turn = self.answer_turn(&mut conversation, message, &settings, &mut known_notices)?;
                    if turn.is_break() {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Answers a message; breaks where nobody reads the answers. A message that cannot be answered is left out, and the
    /// conversation goes on.
    fn answer_turn(
        &self,
        conversation: &mut Conversation<'_>,
        message: &str,
        settings: &GenerationSettings,
        known_notices: &mut Vec<Notice>,
    ) -> Result<ControlFlow<()>> {
        let mut noticed = Vec::new();
        let mut shown = Shown::default();
        self.interrupt.begin();
        let answer = conversation
            .ask(message, settings, &mut noticed, &mut |piece| shown.piece(piece, &self.interrupt));
        self.interrupt.end();
        if shown.reader_is_gone {
            return Ok(ControlFlow::Break(()));
        }
        match answer {
            Ok(answer) => {
                print_exactly("\n")?;
                noticed.retain(|notice| !known_notices.contains(notice));
                display::notices(noticed.iter().map(ToString::to_string).collect::<Vec<_>>().iter());
                known_notices.append(&mut noticed);
                tell_cut(&answer);
                if answer.text.trim().is_empty() {
                    tell("the answer is empty: the message is left out\n");
                }
            }
            Err(error) if error.is_input() => {
                tell(&crate::describe(&error));
                tell("the message is left out; /new begins anew\n");
            }
            Err(error) => return Err(error),
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// What a person types next; none at the end of standard input.
fn typed_line() -> Result<Option<String>> {
    tell("> ");
    let mut line = Vec::new();
    let read = std::io::stdin().lock().read_until(b'\n', &mut line);
    let bytes = read.map_err(|error| Error::Job(format!("cannot read from the terminal: {error}")))?;
    if bytes == 0 {
        tell("\n");
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&line).into_owned()))
}

/// An answer on its way to standard output.
#[derive(Default)]
struct Shown {
    reader_is_gone: bool,
}

impl Shown {
    /// Prints a piece; breaks where nothing further is wanted.
    fn piece(&mut self, piece: &str, interrupt: &AnswerInterrupt) -> Result<ControlFlow<()>> {
        if !piece.is_empty() {
            self.reader_is_gone = !print_generated(piece)?;
        }
        let is_over = self.reader_is_gone || interrupt.is_requested();
        Ok(if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

/// Says that an answer was cut off.
fn tell_cut(answer: &Answer) {
    if answer.ended == Ended::Length {
        let tokens = answer.ids.len();
        let line =
            format!("the answer was cut off after {tokens} tokens, the most it may have (--max-new-tokens)");
        display::notices(std::iter::once(&line));
    }
}

/// An answer as a program reads it.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<usize>,
    prompt: &'a str,
    answer: &'a str,
    tokens: usize,
    ended: Ended,
    ids: &'a [u32],
}

impl<'a> Line<'a> {
    fn new(row: Option<usize>, prompt: &'a Prompt, answer: &'a Answer) -> Self {
        Self {
            row,
            prompt: &prompt.text,
            answer: &answer.text,
            tokens: answer.ids.len(),
            ended: answer.ended,
            ids: &answer.ids,
        }
    }

    fn json(&self) -> Result<String> {
        let line = serde_json::to_string(self)
            .map_err(|error| Error::Job(format!("an answer cannot be written as JSON: {error}")))?;
        Ok(line + "\n")
    }
}
