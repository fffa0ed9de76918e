//! attnc
