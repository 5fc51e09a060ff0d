//! The options' meaning, and the order in which mistakes are found.

use super::*;

/// Passes every check.
fn args() -> Args {
    Args {
        cid: Some("c".into()),
        cuuid: Some("u".into()),
        runtime: Some("/".into()),
        log_path: vec!["none".into()],
        ..Args::default()
    }
}

fn config(change: impl FnOnce(&mut Args)) -> Result<Config> {
    let mut args = args();
    change(&mut args);
    Config::try_from(args)
}

#[test]
fn defaults() {
    let config = config(|_| ()).unwrap();
    let cwd = std::env::current_dir().unwrap();
    assert_eq!(config.operation, Operation::Create);
    assert_eq!(config.api, ApiVersion::Legacy);
    assert_eq!(config.bundle, Some(cwd.clone()));
    assert_eq!(config.container_pidfile, cwd.join("pidfile-c"));
    assert_eq!(config.socket_dir, Path::new("/var/run/crio"));
    assert_eq!(config.stdin, StdinPolicy::None);
    assert_eq!(config.log.max_files, 1);
    assert!(config.timeout.is_none() && config.exit_command.is_none());
}

/// Each step mends the mistake that the step before was refused for.
#[test]
fn mistakes_are_found_in_conmons_order() {
    type Mend = fn(&mut Args);
    let mut args = Args {
        log_max_files: Some(-1),
        log_rotate: true,
        log_level: Some("loud".into()),
        restore: Some("r".into()),
        exec: true,
        exec_attach: true,
        exit_delay: Some(-1),
        ..Args::default()
    };
    let steps: &[(&str, Mend)] = &[
        ("log-max-files must be non-negative, got -1", |args| args.log_max_files = Some(0)),
        ("log-max-files must be at least 1 when log-rotate is enabled, got 0", |args| {
            args.log_rotate = false
        }),
        ("Container ID not provided. Use --cid", |args| args.cid = Some(OsString::new())),
        ("No such log level loud", |args| args.log_level = Some("Fatal".into())),
        ("Cannot use 'exec' and 'restore' at the same time", |args| args.exec = false),
        ("Attach can only be specified with exec", |args| (args.exec, args.restore) = (true, None)),
        ("Attach can only be specified for a non-legacy exec session", |args| args.api_version = true),
        ("Container UUID not provided. Use --cuuid", |args| args.cuuid = Some("u".into())),
        ("Runtime path not provided. Use --runtime", |args| args.runtime = Some("/nowhere/runc".into())),
        ("Runtime path /nowhere/runc is not valid No such file or directory", |args| {
            args.runtime = Some("/".into());
        }),
        ("Exec process spec path not provided. Use --exec-process-spec", |args| {
            args.exec_process_spec = Some(OsString::new());
        }),
        ("Delay before invoking exit command must be greater than or equal to 0", |args| {
            args.exit_delay = Some(300);
        }),
        ("Log driver not provided. Use --log-path", |args| args.log_path = vec!["x:y".into()]),
        ("No such log driver x", |args| args.log_path = vec!["none".into()]),
    ];
    for (text, mend) in steps {
        assert_eq!(Config::try_from(args.clone()).unwrap_err().to_string(), *text);
        mend(&mut args);
    }
    let config = Config::try_from(args).unwrap();
    assert_eq!(config.operation, Operation::Exec { process_spec: "".into(), attach: true });
}

#[test]
fn only_early_mistakes_are_usage_errors() {
    assert!(matches!(config(|args| args.cid = None), Err(Error::Usage(_))));
    assert!(matches!(config(|args| args.log_max_files = Some(-1)), Err(Error::Usage(_))));
    assert!(matches!(config(|args| args.log_level = Some("x".into())), Err(Error::Message(_))));
}

#[test]
fn a_legacy_exec_needs_neither_uuid_nor_bundle() {
    let exec = |args: &mut Args| {
        args.exec = true;
        args.cuuid = None;
        args.exec_process_spec = Some("spec".into());
    };
    let config = config(exec).unwrap();
    assert_eq!((config.cuuid, config.bundle), (None, None));
    assert_eq!(config.operation, Operation::Exec { process_spec: "spec".into(), attach: false });
}

#[test]
fn levels_have_logrus_names_in_any_case() {
    let cases = [
        ("panic", LevelFilter::Error),
        ("fatal", LevelFilter::Error),
        ("ERROR", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("Warning", LevelFilter::Warn),
        ("info", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
        ("Trace", LevelFilter::Trace),
    ];
    for (name, expected) in cases {
        assert_eq!(level(Some(OsStr::new(name))).unwrap(), expected, "{name}");
    }
    for name in ["", "off", "warning "] {
        assert_eq!(
            level(Some(OsStr::new(name))).unwrap_err().to_string(),
            format!("No such log level {name}")
        );
    }
}

#[test]
fn values_with_a_meaning_of_their_own() {
    let config = config(|args| {
        args.restore = Some(OsString::new());
        args.bundle = Some(OsString::new());
        args.timeout = Some(-5);
        args.leave_stdin_open = true;
        args.stdin = true;
        args.exit_command = Some("cleanup".into());
        args.exit_command_arg = vec!["".into(), "--rm".into()];
        args.exit_delay = Some(2);
    });
    let config = config.unwrap();
    assert_eq!(config.operation, Operation::Restore { image: "".into() });
    assert_eq!(config.bundle, Some("".into()));
    assert_eq!(config.timeout, None);
    assert_eq!(config.stdin, StdinPolicy::KeepOpen);
    let command = config.exit_command.unwrap();
    assert_eq!(command.args, ["", "--rm"]);
    assert_eq!(command.delay, Duration::from_secs(2));
}
