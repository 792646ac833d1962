//! The configuration file: the same names as the flags, weaker than environment and flags, every mistake listed at once.

use clap::Command;
use policy::wanted::unknown;
use std::ffi::OsString;

/// Commands that serve, and so may have a table of their own.
const ROLES: [&str; 4] = ["up", "gateway", "worker", "controller"];

/// Makes the values of the file named by `--config` or `SLUICE_CONFIG`, if any, the defaults of the command in `args`.
///
/// # Errors
/// Every unknown name (with the nearest known one) and every value that is not text, number, switch or list.
pub(crate) fn apply(command: Command, args: Vec<OsString>) -> Result<Command, String> {
    let Some(path) = path(&args) else { return Ok(command) };
    let text = std::fs::read_to_string(&path).map_err(|e| format!("configuration file {}: {e}", path.to_string_lossy()))?;
    let table: toml::Table = toml::from_str(&text).map_err(|e| format!("configuration file {}: {e}", path.to_string_lossy()))?;
    let role = args.iter().skip(1).filter_map(|a| a.to_str()).find(|a| ROLES.contains(a)).map(str::to_owned);
    merge(command, role.as_deref(), &table)
        .map_err(|problems| format!("configuration file {}:\n{}", path.to_string_lossy(), problems.join("\n")))
}

fn path(args: &[OsString]) -> Option<OsString> {
    let mut rest = args.iter().skip(1);
    while let Some(arg) = rest.next() {
        match arg.to_str().map(|a| a.split_once('=')) {
            Some(Some(("--config", value))) => return Some(value.into()),
            Some(None) if arg == "--config" => return rest.next().cloned(),
            _ => {}
        }
    }
    std::env::var_os("SLUICE_CONFIG").filter(|v| !v.is_empty())
}

fn merge(mut command: Command, role: Option<&str>, table: &toml::Table) -> Result<Command, Vec<String>> {
    let mut problems = Vec::new();
    let known = |role: &str| -> Vec<String> {
        let roles = command.get_subcommands().filter(|c| c.get_name() == role || role.is_empty());
        let args = roles.flat_map(Command::get_arguments).chain(command.get_arguments());
        args.filter_map(|a| a.get_long().map(str::to_owned)).filter(|a| a != "config" && a != "help" && a != "version").collect()
    };
    let mut values: Vec<(String, &toml::Value)> = Vec::new();
    for (name, value) in table {
        match value {
            toml::Value::Table(own) if ROLES.contains(&name.as_str()) => {
                let allowed = known(name);
                for (inner, value) in own {
                    check(&allowed, &format!("{name}.{inner}"), inner, value, &mut problems);
                    if role == Some(name) {
                        values.push((inner.replace('_', "-"), value));
                    }
                }
            }
            value => {
                // A flag of another role is no mistake: one file may serve all processes of a host.
                check(&known(""), name, name, value, &mut problems);
                values.insert(0, (name.replace('_', "-"), value));
            }
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    for (name, value) in values {
        let texts = texts(value);
        command = command.mut_args(|a| default(a, &name, &texts));
        if let Some(role) = role {
            command = command.mut_subcommand(role, |c| c.mut_args(|a| default(a, &name, &texts)));
        }
    }
    Ok(command)
}

fn default(arg: clap::Arg, name: &str, texts: &[String]) -> clap::Arg {
    if arg.get_long() == Some(name) { arg.default_values(texts.to_vec()).required(false) } else { arg }
}

fn check(known: &[String], shown: &str, name: &str, value: &toml::Value, problems: &mut Vec<String>) {
    let name = name.replace('_', "-");
    if !known.contains(&name) {
        problems.push(format!("  {}", unknown(shown, &name, known.iter().map(String::as_str))));
    } else if texts(value).is_empty() {
        problems.push(format!("  `{shown}` is a {}; expected text, a number, true or false, or a list of them", value.type_str()));
    }
}

fn texts(value: &toml::Value) -> Vec<String> {
    match value {
        toml::Value::String(text) => vec![text.clone()],
        toml::Value::Integer(number) => vec![number.to_string()],
        toml::Value::Float(number) => vec![number.to_string()],
        toml::Value::Boolean(on) => vec![on.to_string()],
        toml::Value::Array(list) => list.iter().flat_map(texts).collect(),
        toml::Value::Table(_) | toml::Value::Datetime(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(toml: &str, args: &[&str]) -> Result<clap::ArgMatches, String> {
        let table = toml.parse::<toml::Table>().unwrap();
        let command = merge(crate::args::Cli::command(), Some(args[1]), &table).map_err(|p| p.join("\n"))?;
        command.try_get_matches_from(args).map_err(|e| e.to_string())
    }

    #[test]
    fn every_unknown_name_is_listed_with_the_nearest_known_one() {
        let problems = parse("grcp = \"x\"\n[up]\ndata_dri = \"y\"\nadmin = 1979-05-27", &["sluice", "up"]).unwrap_err();
        assert!(problems.contains("`grcp` is not known; did you mean `grpc`"), "{problems}");
        assert!(problems.contains("`up.data_dri` is not known; did you mean `data-dir`"), "{problems}");
        assert!(problems.contains("`up.admin` is a datetime"), "{problems}");
    }

    #[test]
    fn a_flag_is_stronger_than_the_file_and_a_table_than_the_top() {
        let toml = "models = \"/m\"\ngrpc = \"top:1\"\nadmin = \"top:2\"\n[up]\nadmin = \"own:2\"\n[gateway]\ngrpc = \"other:1\"";
        let matches = parse(toml, &["sluice", "up", "--grpc", "flag:1"]).unwrap();
        let up = matches.subcommand_matches("up").unwrap();
        let text = |name: &str| up.get_one::<String>(name).unwrap().clone();
        assert_eq!((text("grpc"), text("admin")), ("flag:1".to_owned(), "own:2".to_owned()));
    }
}
