//! `report`.

use cpift_model::Result;

use crate::display::print;
use crate::display::style::Style;
use crate::{args, report};

/// Writes the report of a run folder.
pub fn run(arguments: &args::Report) -> Result<()> {
    let written = report::write(&arguments.run, arguments.out.as_deref(), arguments.figures.as_deref())?;
    let style = Style::of(&std::io::stdout());
    print(&format!(
        "{} {}\n{} charts and tables as SVG, CSV and JSON in {}\n",
        style.bold("report"),
        style.green(written.page.display()),
        written.files,
        written.figures.display()
    ))
}
