//! The stages of CPI-FT, each a function over weights, masks and reports.

pub mod core;
pub mod fuse;
pub mod group;
pub mod masks;
pub mod merge;
pub mod models;
pub mod pieces;
pub mod saliency;
