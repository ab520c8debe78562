//! The public fixtures as columns of numbers, read here and not through importers, so that the
//! reference figures test statistics alone.

use std::io::Read;
use std::path::Path;

use crate::common::shared;

/// Values of one quantity, VM by VM; `None` where the source has none.
pub(crate) type Columns = Vec<Vec<Option<f64>>>;

fn text(path: &Path) -> String {
    let bytes = std::fs::read(path).expect("a fixture can be read");
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return String::from_utf8(bytes).expect("fixtures are text");
    }
    let mut text = String::new();
    flate2::read::GzDecoder::new(&bytes[..])
        .read_to_string(&mut text)
        .expect("fixtures are good gzip");
    text
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a fixture's folder");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.retain(|file| !file.ends_with("README.md"));
    files.sort();
    files
}

/// PlanetLab, both days, per cent.
pub(crate) fn planetlab(test: &str) -> Option<Columns> {
    let folder = shared("traces/planetlab", test)?;
    let days = ["20110303", "20110409"].map(|day| files(&folder.join(day)));
    let column = |file| {
        text(file)
            .lines()
            .map(|line| line.trim().parse().ok())
            .collect()
    };
    Some(days.iter().flatten().map(|file| column(file)).collect())
}

/// A matrix of the Azure fixtures: names of the columns, per cent.
pub(crate) fn azure(file: &str, test: &str) -> Option<(Vec<String>, Columns)> {
    let text = text(&shared(&format!("traces/azure-v1/{file}"), test)?);
    let mut lines = text.lines();
    let header = lines.next().expect("a header").split(',').skip(1);
    let names: Vec<String> = header.map(str::to_owned).collect();
    let mut columns = vec![Vec::new(); names.len()];
    for line in lines {
        for (column, value) in columns.iter_mut().zip(line.split(',').skip(1)) {
            column.push(value.parse().ok());
        }
    }
    Some((names, columns))
}

/// Bitbrains Rnd, the two-day files and the two whole months: CPU in per cent, network in KB/s,
/// each without the VMs whose values never change.
pub(crate) fn bitbrains(test: &str) -> Option<(Columns, Columns)> {
    let folder = shared("traces/bitbrains-rnd", test)?;
    let (mut cpu, mut net) = (Vec::new(), Vec::new());
    for file in ["2013-8-2days", "2013-8-full"]
        .iter()
        .flat_map(|part| files(&folder.join(part)))
    {
        let text = text(&file);
        let rows = text.lines().skip(1).map(|line| {
            let fields = line
                .split(';')
                .map(|field| field.trim().parse::<f64>().expect("a number"));
            fields.collect::<Vec<f64>>()
        });
        let rows: Vec<Vec<f64>> = rows.collect();
        let push = |columns: &mut Columns, value: fn(&[f64]) -> f64| {
            let column: Vec<f64> = rows.iter().map(|row| value(row)).collect();
            if column.iter().any(|v| *v != column[0]) {
                columns.push(column.into_iter().map(Some).collect());
            }
        };
        push(&mut cpu, |row| row[4]);
        push(&mut net, |row| row[9] + row[10]);
    }
    Some((cpu, net))
}

/// The 24-hour VMs derived from Google's 2011 trace: CPU and memory, per cent.
pub(crate) fn google(test: &str) -> Option<(Columns, Columns)> {
    let folder = shared("traces/google-2011-vm24h", test)?;
    let (mut cpu, mut memory) = (Vec::new(), Vec::new());
    for file in files(&folder) {
        let text = text(&file);
        let rows = text.lines().map(|line| {
            let mut fields = line
                .split_whitespace()
                .map(|field| field.parse::<f64>().ok());
            (fields.next().flatten(), fields.next().flatten())
        });
        let (a, b): (Vec<_>, Vec<_>) = rows.unzip();
        cpu.push(a);
        memory.push(b);
    }
    Some((cpu, memory))
}
