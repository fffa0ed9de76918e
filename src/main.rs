//! attnc
fn main() {}
