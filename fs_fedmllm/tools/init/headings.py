"""Words in the headings of people's tables, by what such a column holds, in several languages and without accents."""

from __future__ import annotations

from collections.abc import Collection

from fs_fedmllm.data.column_words import IMAGE_WORDS, PATH_WORDS, TEXT_WORDS, word_set, words_of

LABEL = word_set(
    "label labels class classes category categories target y gold diagnosis outcome status grade severity infected "
    "finding verdict sentiment topic damage infection stage type species klasse kategorie diagnose ergebnis "
    "schweregrad diagnostic etiquette classe categorie gravite tani etiket sinif kategori sonuc 诊断 标签 类别 分类"
)
#: Where nothing is called a label, what else may hold one.
LIKE_LABEL = word_set(
    "disease condition illness pathology risk priority urgency triage decision defect quality rating emotion intent "
    "krankheit infektion zustand dringlichkeit maladie urgence hastalik aciliyet"
)
#: Who or what several rows are of; before anything that one of them has several of.
PERSON = word_set(
    "patient patients subject person participant animal user pid mrn patientin patienten patientennummer "
    "hasta 患者 病人"
)
GROUP = PERSON | word_set(
    "case study visit tweet specimen author speaker group encounter family fall owner claim policy sequence seq "
    "burst halter besitzer dossier"
)
SITE = word_set(
    "hospital hospitals site sites clinic centre center institution institute ward department station device scanner "
    "location region client clients organisation organization school city country event practice camera "
    "district province borough branch deployment trap plot farm "
    "krankenhaus klinik standort abteilung praxis filiale hopital "
    "etablissement hastane merkez sube 医院 科室 中心"
)
SPLIT = word_set("split splits subset partition fold set")
QUESTION = word_set("question questions query frage soru 问题")
PAIR = word_set("input output")
ANSWER = word_set("answer answers response reference antwort reponse cevap 答案 回答")
#: Where nothing is called an answer, what else may hold one.
LIKE_ANSWER = word_set("label labels target output completion")
ID = word_set("id uid uuid key nr no nummer numero 编号")
#: A number of somebody's that results should not be full of.
PRIVATE = word_set("phone telephone tel telefon mobile handy fax iban account konto ssn email mail")
IMAGE = IMAGE_WORDS | word_set("bild bilder foto fotos aufnahme goruntu resim 图像 图片 照片 影像")
PATH = PATH_WORDS | word_set("datei dateiname pfad fichier chemin dosya yol 路径 文件")
#: A picture with one of these shows what somebody drew, or less than another one does.
DRAWN = word_set(
    "mask masks segmentation seg annotation annotated overlay heatmap saliency depth gt maske masque thumb thumbnail "
    "preview"
)
TEXT = TEXT_WORDS | word_set(
    "befund bericht beschreibung notiz notizen bemerkung bemerkungen anmerkung kommentar texte observation "
    "observations remarque commentaire metin aciklama rapor 文本 描述 报告 备注"
)


def has(name: str, words: Collection[str]) -> bool:
    """Whether one of the words is in a column's name."""
    return not words_of(name).isdisjoint(words)
