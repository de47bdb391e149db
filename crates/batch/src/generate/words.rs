//! What the shop's goods are called.

/// A category: its name, its goods and the range of their prices in cents.
pub(super) struct Category {
    pub(super) name: &'static str,
    pub(super) goods: [&'static str; 8],
    pub(super) price: (u64, u64),
}

/// Styles: a taste that cuts across categories. Each has its adjectives.
pub(super) const STYLES: [[&str; 5]; 4] = [
    ["Rustic", "Handmade", "Farmhouse", "Weathered", "Homespun"],
    ["Sleek", "Minimal", "Nordic", "Slim", "Quiet"],
    ["Bright", "Playful", "Striped", "Tropical", "Neon"],
    ["Classic", "Heritage", "Tailored", "Fine", "Vintage"],
];

/// Materials.
pub(super) const MATERIALS: [&str; 10] =
    ["Oak", "Wool", "Linen", "Copper", "Bamboo", "Cotton", "Steel", "Clay", "Leather", "Cork"];

/// Categories.
pub(super) const CATEGORIES: [Category; 10] = [
    Category {
        name: "Kitchen",
        goods: ["Kettle", "Pan", "Board", "Grinder", "Jar", "Ladle", "Scale", "Whisk"],
        price: (600, 9_000),
    },
    Category {
        name: "Desk",
        goods: ["Lamp", "Notebook", "Pen Stand", "Organiser", "Clock", "Tray", "Stool", "Shelf"],
        price: (400, 14_000),
    },
    Category {
        name: "Garden",
        goods: ["Planter", "Trowel", "Watering Can", "Bench", "Lantern", "Trellis", "Gloves", "Bird House"],
        price: (500, 12_000),
    },
    Category {
        name: "Bedroom",
        goods: ["Blanket", "Pillow", "Throw", "Bed Frame", "Night Light", "Duvet", "Rug", "Mirror"],
        price: (1_500, 40_000),
    },
    Category {
        name: "Travel",
        goods: ["Backpack", "Duffel", "Flask", "Wallet", "Umbrella", "Pouch", "Neck Pillow", "Tag"],
        price: (900, 18_000),
    },
    Category {
        name: "Clothing",
        goods: ["Scarf", "Jumper", "Cap", "Socks", "Jacket", "Shirt", "Belt", "Mittens"],
        price: (800, 16_000),
    },
    Category {
        name: "Toys",
        goods: ["Blocks", "Puzzle", "Kite", "Train", "Doll", "Marble Run", "Drum", "Board Game"],
        price: (500, 8_000),
    },
    Category {
        name: "Bath",
        goods: ["Towel", "Soap Dish", "Robe", "Basket", "Bath Mat", "Brush", "Stool", "Shelf"],
        price: (400, 7_000),
    },
    Category {
        name: "Music",
        goods: ["Ukulele", "Headphone Stand", "Record Crate", "Metronome", "Shaker", "Speaker", "Music Stand", "Strap"],
        price: (700, 25_000),
    },
    Category {
        name: "Pets",
        goods: ["Dog Bed", "Bowl", "Leash", "Cat Tree", "Toy Mouse", "Brush", "Carrier", "Collar"],
        price: (400, 11_000),
    },
];
