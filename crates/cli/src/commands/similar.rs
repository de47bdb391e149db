//! `anabranch similar`: items near an item, from the vector database.

use anabranch_batch::train::embeddings::ITEMS;
use anabranch_stores::vectors::{Access, Collection, Filter, Scalar, Search};
use serde::Serialize;

use crate::args::SimilarArgs;
use crate::compose::Context;
use crate::failure::Failure;
use crate::ui::{ranked, table};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Similar {
    item_id: String,
    score: f32,
    title: String,
    category: String,
}

pub(crate) fn run(context: &Context, arguments: &SimilarArgs) -> Result<(), Failure> {
    if !(1..=1000).contains(&arguments.length) {
        return Err(Failure::input("a list has 1 to 1000 items"));
    }
    let current = context.registry()?.current()?;
    let Some(pointer) = current.pointer else {
        return Err(Failure::missing("no model is published; run `anabranch train` first"));
    };
    let vectors = context.vectors(Access::ReadOnly)?;
    let collection = Collection::new(ITEMS, pointer.version.as_str())?;
    let Some(record) = vectors.get(collection, &arguments.item)? else {
        return Err(Failure::missing(format!(
            "item {:?} has no embedding in model {}: nobody interacted with it before the model was trained, or its id is another",
            arguments.item, pointer.version
        )));
    };
    let filter = arguments
        .category
        .as_ref()
        .map(|category| Filter::Eq { field: "category".to_owned(), value: Scalar::Text(category.clone()) });
    let mut search = Search::cosine(&record.vector, arguments.length + 1);
    if let Some(filter) = &filter {
        search = search.filtered(filter);
    }
    let mut near = Vec::new();
    for hit in vectors.search(collection, &search)? {
        if hit.id == arguments.item || near.len() == arguments.length {
            continue;
        }
        let metadata = vectors.get(collection, &hit.id)?.map(|record| record.metadata).unwrap_or_default();
        let text = |name: &str| metadata.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        near.push(Similar { title: text("title"), category: text("category"), item_id: hit.id, score: hit.score });
    }
    context.ui.answer(&near, |near| {
        let rows: Vec<Vec<String>> = near
            .iter()
            .enumerate()
            .map(|(place, item)| ranked(place, &item.item_id, &item.title, &item.category, item.score))
            .collect();
        let title = record.metadata.get("title").and_then(|v| v.as_str()).unwrap_or_default();
        format!("near {} {title}\n{}", arguments.item, table(&["", "item", "title", "category", "cosine"], &rows))
    })
}
