//! The runtime's command line, from the configuration alone. conmon: `runtime_args.c:configure_runtime_args`.

use std::ffi::OsString;
use std::path::Path;

use crate::config::{Config, Operation};

/// The words of the runtime's command line, its own name first.
///
/// `console_socket` is where the runtime is to send the pty leader, `None` without a terminal.
pub(super) fn runtime_argv(config: &Config, console_socket: Option<&Path>) -> Vec<OsString> {
    let mut argv = Words(vec![config.runtime.path.clone().into()]);
    match &config.operation {
        Operation::Exec { process_spec, .. } => {
            argv.all(&config.runtime.global_args);
            argv.word("exec").option("--pid-file", &config.container_pidfile);
            argv.option("--process", process_spec).word("--detach");
        }
        Operation::Create => {
            argv.create("create", config);
        }
        Operation::Restore { image } => {
            // Unlike create, restore leaves a running container, so the runtime has to detach to return.
            argv.create("restore", config).word("--detach").option("--image-path", image);
            argv.option("--work-path", bundle(config));
        }
    }
    argv.all(&config.runtime.subcommand_args);
    if let Some(socket) = console_socket {
        argv.option("--console-socket", socket);
    }
    argv.word(&config.cid);
    argv.0
}

/// Never empty for create and restore: it defaults to the working directory there.
fn bundle(config: &Config) -> &Path {
    config.bundle.as_deref().unwrap_or(Path::new("."))
}

struct Words(Vec<OsString>);

impl Words {
    fn word(&mut self, word: impl Into<OsString>) -> &mut Self {
        self.0.push(word.into());
        self
    }

    fn option(&mut self, name: &str, value: &Path) -> &mut Self {
        self.word(name).word(value)
    }

    fn flag(&mut self, wanted: bool, name: &str) -> &mut Self {
        if wanted { self.word(name) } else { self }
    }

    fn all(&mut self, words: &[OsString]) -> &mut Self {
        self.0.extend_from_slice(words);
        self
    }

    fn create(&mut self, command: &str, config: &Config) -> &mut Self {
        let runtime = &config.runtime;
        self.flag(runtime.systemd_cgroup, "--systemd-cgroup").all(&runtime.global_args).word(command);
        self.option("--bundle", bundle(config)).option("--pid-file", &config.container_pidfile);
        self.flag(runtime.no_pivot, "--no-pivot").flag(runtime.no_new_keyring, "--no-new-keyring")
    }
}
