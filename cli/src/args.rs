//! The commands and their arguments.

use std::num::NonZeroUsize;

use clap::{Args, Parser, Subcommand};

/// Multi-task fine-tuning of language models that does not trade one task for another.
#[derive(Debug, Parser)]
#[command(name = "cpift-engine", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Threads of the CPU; as many as there are cores when not given.
    ///
    /// The same recipe with the same number of threads gives the same bits.
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the job failed
  2    the input was wrong: one line names the file, line or key, and what to do
  130  stopped by Ctrl-C or a signal; `train --resume` continues";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the devices that can compute here, and why others cannot
    Devices(Devices),
    /// Print the completions of a shell
    #[command(after_long_help = COMPLETIONS_EXAMPLES)]
    Completions(Completions),
}

/// `devices`.
#[derive(Debug, Args)]
pub struct Devices {
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  cpift-engine completions bash > ~/.local/share/bash-completion/completions/cpift-engine
  cpift-engine completions zsh > ~/.zfunc/_cpift-engine
  cpift-engine completions fish > ~/.config/fish/completions/cpift-engine.fish";

/// `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_argument_has_a_help_text() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            for subcommand in command.get_subcommands() {
                assert!(subcommand.get_about().is_some(), "{}", subcommand.get_name());
                check(subcommand);
            }
        }
        check(&Arguments::command());
    }
}
