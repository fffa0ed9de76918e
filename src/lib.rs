//! attnc
pub mod io;
