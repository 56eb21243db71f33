//! The rows of a recipe's tasks, to look at before anything is trained.

use std::sync::Arc;

use super::inputs::{open_data, tokenizer_folder};
use crate::data::{DataSettings, Dataset, LongRows, Preparation};
use crate::error::{Error, Result};
use crate::recipe::{ModelSettings, Recipe};
use crate::tokenizer::Tokenizer;

/// The data of one task, rows of any length among it.
#[derive(Debug)]
pub struct TaskData {
    /// The task's name.
    pub name: String,
    /// Rows to train on.
    pub train: Arc<Dataset>,
    /// Rows to evaluate on.
    pub eval: Option<Arc<Dataset>>,
}

/// The data of some tasks, and the tokenizer that made their tokens.
pub struct RecipeData {
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The tasks in the recipe's order.
    pub tasks: Vec<TaskData>,
    /// Most tokens of a row in training.
    pub max_length: usize,
    /// What training does with longer rows.
    pub long_rows: LongRows,
}

impl RecipeData {
    /// Reads and tokenises the rows of a recipe's tasks, or of the one of a name. Of the model only its tokenizer is
    /// read.
    ///
    /// # Errors
    /// No task of that name; a file, row or tokenizer that cannot be used.
    pub fn open(recipe: &Recipe, task: Option<&str>, preparation: &Preparation<'_>) -> Result<Self> {
        recipe.validate()?;
        let tokenizer = Tokenizer::from_folder(tokenizer_folder(&recipe.model))?;
        let wanted = |name: &str| task.is_none_or(|task| task == name);
        let names: Vec<&str> = recipe.task.iter().map(|task| task.name.as_str()).collect();
        if let Some(task) = task.filter(|_| !names.iter().any(|name| wanted(name))) {
            let reason = format!("there is no task `{task}`: the recipe has {}", names.join(", "));
            return Err(Error::setting("--task", reason));
        }
        let unlimited = ModelSettings { max_length: usize::MAX, ..recipe.model.clone() };
        let tasks = recipe.task.iter().filter(|task| wanted(&task.name)).map(|task| {
            let training = DataSettings::of_task(&unlimited, task);
            let evaluation = DataSettings::of_evaluation(&unlimited, task);
            let (train, eval) = open_data(task, &tokenizer, preparation, &training, &evaluation)?;
            Ok(TaskData { name: task.name.clone(), train: Arc::new(train), eval })
        });
        let tasks = tasks.collect::<Result<Vec<_>>>()?;
        let long_rows = if recipe.model.truncate { LongRows::Truncate } else { LongRows::Skip };
        Ok(Self { tokenizer, tasks, max_length: recipe.model.max_length, long_rows })
    }
}
