//! `inspect`.

use cpift_model::Result;
use cpift_model::hub::ModelParts;
use cpift_model::inspection::Inspection;

use crate::args;
use crate::display::style::Style;
use crate::display::{self, inspection, print, print_json};

/// Looks at a model folder.
pub fn run(arguments: &args::inspect::Inspect) -> Result<()> {
    let inspection = Inspection::of(&super::model_folder(&arguments.model, ModelParts::ALL)?)?;
    if arguments.json {
        return print_json(&inspection);
    }
    display::notices(inspection.notices.iter());
    print(&inspection::render(&inspection, Style::of(&std::io::stdout())))
}
