//! The Hugging Face Hub: models and data sets by their names there, and the folder they are kept in here.

mod origin;

pub use origin::HubOrigin;
