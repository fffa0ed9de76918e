//! The command line. Everything but the panic hook is in `cli`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        eprintln!(
            "error: attnc {} has met a bug of its own: {info}\n\
             note: please report it with the command, the .attn file and this text: {}/issues",
            env!("CARGO_PKG_VERSION"),
            env!("CARGO_PKG_REPOSITORY"),
        );
    }));
    let status = std::panic::catch_unwind(cli::main).unwrap_or(cli::Status::Bug);
    ExitCode::from(status as u8)
}
