//! Arguments that cannot be used: what clap says about them, and what it cannot know.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use cpift_model::recipe::section_of;

use crate::display::style::Style;
use crate::display::{tell, text};

/// Commands that read a recipe, whose keys are set by `--set`.
const WITH_RECIPE: [&str; 4] = ["train", "plan", "compare", "data"];

/// Where an unknown argument is a key of the recipe: how that is set, in the place of clap's own tip.
pub fn explain(error: &mut clap::Error) {
    if let Some(tip) = key_tip(error) {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
    }
}

fn key_tip(error: &clap::Error) -> Option<String> {
    let (ErrorKind::UnknownArgument, Some(ContextValue::String(argument))) =
        (error.kind(), error.get(ContextKind::InvalidArg))
    else {
        return None;
    };
    let key = argument.strip_prefix("--")?.split('=').next()?.replace('-', "_");
    let section = section_of(&key)?;
    let usage = error.get(ContextKind::Usage)?.to_string();
    // Behind `Usage:` and the program's name.
    let command = usage.split_whitespace().nth(2)?;
    let full = if section.is_empty() { key } else { format!("{section}.{key}") };
    WITH_RECIPE
        .contains(&command)
        .then(|| format!("it is a key of the recipe: set it there, or with '--set {full}=…'"))
}

/// What is wrong with the arguments, in clap's lines, each as long as a message may be.
pub fn tell_error(error: &clap::Error) {
    let rendered = error.render();
    let plain = rendered.to_string();
    let is_short = plain.lines().all(|line| line.len() <= text::LONGEST_MESSAGE);
    if is_short && Style::of(&std::io::stderr()) != Style::PLAIN {
        return tell(&rendered.ansi().to_string());
    }
    // The list of commands has columns, and nothing in it that a person has written.
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return tell(&plain);
    }
    for line in plain.lines() {
        // Indents stay: only the text of a line is shortened.
        let indent = &line[..line.len() - line.trim_start().len()];
        tell(&format!("{indent}{}\n", text::message(line)));
    }
}
